// Limits, error messages and hostile templates; what Jinja2 would not answer itself.
#include "runtime/text/jinja/template.h"

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::jinja {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

absl::StatusOr<std::string> RenderText(std::string_view source, const Json& variables = {},
                                       const RenderOptions& options = RenderOptions()) {
  absl::StatusOr<Template> parsed = Template::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(variables, options);
}

std::string MessageOf(std::string_view source, const Json& variables = {}) {
  return std::string(RenderText(source, variables).status().message());
}

TEST(TemplateErrors, NameLineAndConstruct) {
  EXPECT_EQ(MessageOf("a\n{{ x|foo }}"), "line 2: unknown filter 'foo'");
  EXPECT_EQ(MessageOf("{% if 0 %}{{ x|foo }}{% endif %}"), "");  // an error where reached
  EXPECT_THAT(MessageOf("\n\n{% if 1 is foo %}{% endif %}"), "line 3: unknown test 'foo'");
  EXPECT_THAT(MessageOf("{% include 'x' %}"), HasSubstr("line 1: 'include' is not supported"));
  EXPECT_THAT(MessageOf("{% for x in y %}\n"), HasSubstr("block 'for' of line 1 is not closed"));
  EXPECT_THAT(MessageOf("{% wat %}"), "line 1: unknown tag 'wat'");
  EXPECT_THAT(MessageOf("\n{{ a.b.c }}"), "line 2: 'a' is undefined");
  EXPECT_THAT(MessageOf("{{ a.b.c }}", {{"a", Json::object()}}),
              "line 1: 'dict object' has no attribute 'b'");
  EXPECT_THAT(MessageOf("x\n{{ [].append(1) }}"),
              HasSubstr("line 2: access to attribute 'append'"));
  EXPECT_THAT(MessageOf("{{ 1 + 'a' }}"), HasSubstr("line 1: unsupported operand type(s) for +"));
  EXPECT_THAT(MessageOf("{{ lipsum() }}"), HasSubstr("lipsum"));
}

TEST(TemplateErrors, RaisedMessageIsGivenAsItIs) {
  const absl::Status status = RenderText("\n{{ raise_exception('No ' ~ 1) }}").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "No 1");
}

TEST(TemplateLimits, RefuseWhatWouldTakeTooMuch) {
  RenderOptions options;
  options.max_output_bytes = 1 << 16;
  options.max_memory_bytes = 8 << 20;
  options.max_steps = 200'000;
  for (const std::string source : {
           "{{ 'a' * 10**9 }}",
           "{{ 'a' * 10**30 }}",
           "{{ [0] * 10**12 }}",
           "{{ 'x'.center(10**12) }}",
           "{{ 'x'.ljust(10**30) }}",
           "{{ 'x'.zfill(10**12) }}",
           "{{ '%999999999d' % 1 }}",
           "{{ '{:>99999999}'.format(1) }}",
           "{{ ('a' * 100000)|replace('', 'b' * 100000) }}",
           "{{ ([''] * 100000)|join('a' * 100000) }}",
           "{{ 'a\na'|indent(10**9) }}",
           "{{ 'a'|center(10**9) }}",
           "{{ [1]|batch(10**9, 1)|list }}",
           "{{ [1]|slice(10**9)|list }}",
           "{{ [1]|tojson(indent=10**9) }}",
           "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
           "{% for i in range(100000) %}aaaaaaaaaa{% endfor %}",
           "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
           "{% endfor %}",
           "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}"
           "{% endfor %}{{ ns.s }}",
           "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}"
           "{% endfor %}{{ ns.s == ns.s|list }}",
           "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
           "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
           "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
           "{% set ns = namespace(g=[1]) %}{% for i in range(5000) %}"
           "{% set ns.g = ns.g|map('string') %}{% endfor %}{{ ns.g|list }}",
           "{% set ns = namespace(g=[1]) %}{% for i in range(5000) %}{% set ns.g = [ns.g] %}"
           "{% endfor %}{{ ns.g }}",
           "{% set ns = namespace(g=[1]) %}{% for i in range(5000) %}{% set ns.g = [ns.g] %}"
           "{% endfor %}{{ ns.g|tojson }}",
           "{{ 2 ** 1000 }}",
           "{{ range(10**9) }}",
       }) {
    EXPECT_FALSE(RenderText(source, {}, options).ok()) << source;
  }
}

TEST(TemplateLimits, CyclesAndDeepValuesAreFreed) {
  // Under the leak and address sanitizers this is the test; deep chains must also not
  // overflow the stack when they are taken apart.
  for (const std::string source : {
           "{% set ns = namespace() %}{% set ns.a = ns %}{% set ns.b = [ns] %}{{ ns }}",
           "{% macro m() %}{{ m }}{% endmacro %}{{ m() }}",
           "{% for i in range(3) %}{% macro m() %}{{ i }}{% endmacro %}{% endfor %}",
           "{% set ns = namespace(g=[1]) %}{% for i in range(99999) %}{% set ns.g = [ns.g] %}"
           "{% endfor %}",
           "{% set ns = namespace(g=[1]) %}{% for i in range(99999) %}"
           "{% set ns.g = ns.g|map('string') %}{% endfor %}",
           "{% set ns = namespace(g=1) %}{% for i in range(99999) %}"
           "{% set ns.g = namespace(x=ns.g) %}{% endfor %}",
           "{% set ns = namespace(g='a') %}{% for i in range(9999) %}{% set p = ns.g %}"
           "{% macro m() %}{{ p }}{% endmacro %}{% set ns.g = m %}{% endfor %}",
           "{% set ns = namespace() %}{% for x in [1, 2] recursive %}{% set ns.l = loop %}"
           "{% set ns.f = loop.cycle %}{% endfor %}",
           "{% set ns = namespace() %}{% set ns.c = cycler(ns, 1) %}{% set ns.j = joiner(ns) %}",
       }) {
    EXPECT_TRUE(RenderText(source).ok()) << source << RenderText(source).status();
  }
}

std::string Repeat(std::string_view part, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += part;
  return out;
}

TEST(TemplateLimits, DeepTemplatesAreRefusedOrRendered) {
  const int n = 100'000;
  for (const std::string& source : {
           "{{ " + Repeat("(", n) + "1" + Repeat(")", n) + " }}",
           "{{ " + Repeat("[", n) + Repeat("]", n) + " }}",
           "{{ " + Repeat("not ", n) + "1 }}",
           "{{ " + Repeat("-", n) + "1 }}",
           "{{ 1" + Repeat("+1", n) + " }}",
           "{{ 1" + Repeat("**1", n) + " }}",
           "{{ a" + Repeat(".a", n) + " }}",
           "{{ a" + Repeat("[0]", n) + " }}",
           "{{ a" + Repeat("()", n) + " }}",
           "{{ a" + Repeat("|list", n) + " }}",
           "{{ a" + Repeat(" and a", n) + " }}",
           "{{ 1" + Repeat(" if 1 else 1", n) + " }}",
           "{{ 1" + Repeat(" if 1", n) + " }}",
           "{{ 1" + Repeat(" is not odd", n) + " }}",
           "{{ " + Repeat("{1:", n) + "1" + Repeat("}", n) + " }}",
           "{{ a" + Repeat("(a", n) + Repeat(")", n) + " }}",
           Repeat("{% if 1 %}", n) + Repeat("{% endif %}", n),
           Repeat("{% for x in [1] %}", n) + Repeat("{% endfor %}", n),
           "{% filter upper" + Repeat("|upper", n) + " %}a{% endfilter %}",
           "{% set " + Repeat("(", n) + "a" + Repeat(")", n) + " = 1 %}",
       }) {
    EXPECT_FALSE(RenderText(source).ok()) << source.substr(0, 40);
  }
  EXPECT_TRUE(RenderText("{% if 0 %}" + Repeat("{% elif 0 %}", n) + "{% endif %}").ok());
  EXPECT_TRUE(RenderText("{{ ''" + Repeat(" ~ 1", 1000) + " }}").ok());
  EXPECT_TRUE(RenderText("{{ 1" + Repeat(" == 1", 250) + " }}").ok());
}

TEST(TemplateLimits, DeepestAllowedRecursionFitsTheStack) {
  const std::string nested = Repeat("(", 90) + "m()" + Repeat(")", 90);
  EXPECT_FALSE(RenderText("{% macro m() %}{% if 1 %}{% for x in [1] %}{{ [[[" + nested +
                          "]]] }}{% endfor %}{% endif %}{% endmacro %}{{ m() }}")
                   .ok());
  EXPECT_EQ(RenderText("{% macro m(k) %}{{ m(k - 1) if k else 'x' }}{% endmacro %}{{ m(80) }}")
                .value_or("error"),
            "x");
}

TEST(TemplateFuzz, MutatedTemplatesNeverCrash) {
  const std::string seed =
      "{% macro m(a, b=1) %}{{ a ~ caller() }}{% endmacro %}{%- set ns = namespace(x=1) -%}\n"
      "{% for k, v in d.items() if v is defined %}{{ loop.index }}{{ k|upper|replace('a', \"b\") "
      "}}{% if loop.first %}{% continue %}{% elif not v %}{% break %}{% endif %}{% else %}x{% "
      "endfor %}{% call(u) m(xs[1:][::-1], b=2.5e3) %}{{ u }}{% endcall %}{# c #}{% raw %}{{ {% "
      "endraw %}{{ '%5.2f'|format(1.5) }}{{ {'a': [1, (2,)]}|tojson(indent=2) }}{{ xs|sort|map("
      "'string')|join(', ') }}{{ s.split('l')[-1].strip() if s is string else none }}";
  const Json variables = {
      {"d", {{"a", 1}, {"b", nullptr}}}, {"xs", {3, 1, 2}}, {"s", "hél\xff lo"}};
  RenderOptions options;
  options.max_steps = 20'000;
  options.max_memory_bytes = 4 << 20;
  std::mt19937 random(7);
  const std::string pieces[] = {"{%", "%}", "{{",   "}}", "-",    "|", "(",  ")",
                                "[",  "]",  ".",    "'",  "\xc3", "0", "in", " is ",
                                "\\", "{#", "loop", "**", ":",    ","};
  for (int round = 0; round < 20'000; ++round) {
    std::string text = seed;
    for (int edits = 1 + static_cast<int>(random() % 4); edits > 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text.erase(at, 1 + random() % 9);
          break;
        case 1:
          text.insert(at, pieces[random() % std::size(pieces)]);
          break;
        case 2:
          text[at] = static_cast<char>(random());
          break;
        default:
          text.insert(at, seed.substr(random() % seed.size(), random() % 30));
      }
      if (text.empty()) text = "x";
    }
    RenderText(text, variables, options).status().IgnoreError();
  }
}

TEST(Template, OneTemplateServesSeveralThreads) {
  const absl::StatusOr<Template> parsed =
      Template::Parse("{% for x in xs %}{{ x ~ 'é' }}{{ 'const'|upper }}{% endfor %}");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&parsed] {
      for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(*parsed->Render({{"xs", {1, 2}}}), "1éCONST2éCONST");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Template, VariablesMustBeAnObject) {
  EXPECT_FALSE(RenderText("x", Json::array()).ok());
  EXPECT_TRUE(RenderText("x", nullptr).ok());
}

}  // namespace
}  // namespace tandem::jinja
