#include "launcher/command/sampling_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/numbers.h"
#include "runtime/engine/sampling_fields.h"

namespace tandem::launcher {
namespace {

using engine::SamplingRequest;

// CLI11 would take a number that is too large as the largest.
std::string CheckInt64(const std::string& text) {
  int64_t value = 0;
  return absl::SimpleAtoi(text, &value) ? std::string()
                                        : "expected a 64-bit integer, found " + text;
}

// Adds the option of one field.
struct OptionAdder {
  CLI::App* app;
  std::string name;
  std::string help;
  SamplingRequest* request;

  CLI::Option* operator()(const engine::SamplingScalar<float>& scalar) const {
    // Decimal to double to float: the rounding that jobs begun by earlier versions have.
    return app->add_option_function<double>(
        name,
        [target = request, member = scalar.request](const double& value) {
          target->*member = static_cast<float>(value);
        },
        help);
  }
  CLI::Option* operator()(const engine::SamplingScalar<int32_t>& scalar) const {
    return app->add_option(name, request->*scalar.request, help);
  }
  CLI::Option* operator()(const engine::SamplingScalar<int64_t>& scalar) const {
    return app->add_option(name, request->*scalar.request, help)->check(CheckInt64);
  }
  CLI::Option* operator()(const engine::SamplingScalar<bool>& scalar) const {
    return app->add_flag_function(
        name,
        [target = request, member = scalar.request](int64_t count) { target->*member = count > 0; },
        help);
  }
  CLI::Option* operator()(const engine::SamplingIds& list) const {
    return app->add_option(name, request->*list.request, help)->delimiter(',');
  }
  CLI::Option* operator()(const engine::SamplingTexts& list) const {
    return app->add_option(name, request->*list.request, help)->allow_extra_args(false);
  }
  CLI::Option* operator()(const engine::SamplingBiases& biases) const {
    using Pairs = std::vector<std::pair<int32_t, double>>;
    return app->add_option_function<Pairs>(
        name,
        [target = request, member = biases.request](const Pairs& pairs) {
          for (const auto& [id, bias] : pairs) {
            (target->*member)[id] = static_cast<float>(bias);
          }
        },
        help);
  }
};

CLI::Option* AddOption(CLI::App* app, const engine::SamplingField& field,
                       SamplingRequest* request) {
  std::string name = std::string("--") + field.name;
  std::replace(name.begin(), name.end(), '_', '-');
  if (field.on_by_default) name = name + ",!--no-" + name.substr(2);
  return std::visit(OptionAdder{app, name, field.help, request}, field.value);
}

}  // namespace

void AddSamplingOptions(CLI::App* app, SamplingRequest* request) {
  for (const engine::SamplingField& field : engine::SamplingFields()) {
    if (field.option == engine::SamplingOption::kAlways) AddOption(app, field, request);
  }
}

CLI::Option* AddSamplingOption(CLI::App* app, std::string_view field, SamplingRequest* request) {
  return AddOption(app, engine::SamplingFieldNamed(field), request);
}

}  // namespace tandem::launcher
