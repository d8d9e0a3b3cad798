#!/usr/bin/env python3
"""Renders templates with Jinja2, set up as Transformers sets it up, into templates/*.json.

  pip install 'jinja2==3.1.6'
  python3 make_template_golden.py [--shared FOLDER]   (FOLDER/chat_templates/*.jinja)

snippets.json       small templates over the whole language; "error" where Jinja2 refuses
random.json         random expressions
chats.json          own chat templates, whole conversations
model_chats.json    conversations over templates of real models, named by file and not copied
"""
import argparse
import copy
import datetime
import json
import pathlib
import random
import re
import sys
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import third_party  # noqa: E402

with third_party.modules(third_party.ORACLE):
  import jinja2
  import jinja2.ext
  import jinja2.sandbox
  from jinja2 import nodes

NOW = datetime.datetime(2025, 3, 7, 9, 5, 3, 42)
ADDRESS = re.compile(r"at (?:0x|&#)?0x[0-9a-f]+|AT 0X|At 0X", re.I)
HERE = pathlib.Path(__file__).resolve().parent / "templates"


class GenerationBlock(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_run"), [], [], body).set_lineno(line)

    def _run(self, caller):
        return caller()


def environment(optimized=True):
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, optimized=optimized,
        extensions=[GenerationBlock, jinja2.ext.loopcontrols])

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent,
                          separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: NOW.strftime(fmt)
    return env


ENV = environment()
# Jinja2's constant folding changes what a few odd expressions give.
UNFOLDED = environment(optimized=False)


def render(template, variables, ENV=ENV):
    """The text, or None where Jinja2 raises anything."""
    try:
        # A copy: `indent` adds to a list in place before it fails.
        text = ENV.from_string(template).render(**copy.deepcopy(variables))
        text.encode("utf-8")
        return text
    except Exception:
        return None


VARS = {
    "s": "Hello, World", "u": "Grüße an 世界 😀 ǅ ﬁ straße ΣΑΣ", "e": "", "n": 42, "z": 0, "neg": -7,
    "f": 2.5, "big": 18446744073709551615, "tiny": 1e-7, "huge": 1.5e300, "t": True, "no": None,
    "xs": [3, 1, 2], "words": ["b", "A", "c", "a"], "nested": [[1, 2], [3, [4]]],
    "d": {"b": 1, "a": 2, "items": "shadow", "C": None}, "empty": [], "ed": {},
    "html": "<a href=\"x\">T&C's</a>", "ml": "one\n two\n\nthree\n", "sp": "  a  b \t c  ",
    "users": [{"name": "Bob", "age": 30, "tags": ["x"], "city": {"zip": "1"}},
              {"name": "alice", "age": 25, "tags": [], "city": {"zip": "2"}},
              {"name": "Carol", "age": 30, "city": {}}],
    "messages": [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
}

EXPRESSIONS = r"""
1 + 2 * 3 ** 2
2 ** 3 ** 2
-2 ** 2
2 ** -1
7 // 2
-7 // 2
7 % -3
-7 % 3
7.5 // 2
-7.5 % 2
1 / 4
1 / 3
10 / 5
1e20
1e16
123456789012345680.0
1e15
0.1 + 0.2
1e-5
0.0001
1.5e-10
-0.0
1_000
0x1F
0b101
0o17
1 / 0
5 % 0
2 ** 100
big
big + 1
tiny
huge
huge * huge
n ~ s ~ f ~ t ~ no
'a' 'b' "c"
'tab\there' ~ '\x41\u00e9\U0001F600\101'
'\q\é'
'\''
s[0]
s[-1]
s[99]
s[1:4]
s[::-1]
s[-3:]
s[:-1:2]
u[::-1]
u[7:10]
u[-1]
u|length
xs[5]
xs[1:]
xs[::-1]
xs[5:1:-1]
xs[::0]
xs['a']
xs.0
d.a
d['a']
d.missing
d.missing.more
d['missing']
d.items
d['items']
d.keys()
d.keys()|list
d.values()|list
d.items()|list
d.items()
d.get('a')
d.get('q')
d.get('q', 5)
d.pop('a')
d.pop
xs.append(4)
xs.append
xs.sort()
d.update({'x': 1})
d.clear
s.__class__
s.__class__.__mro__
s._private
xs.index(1)
xs.index(9)
xs.count(1)
undefined_thing
undefined_thing.x
undefined_thing['x']
undefined_thing()
undefined_thing + 1
undefined_thing == other_thing
undefined_thing < 1
undefined_thing ~ 'x'
not undefined_thing
undefined_thing is defined
undefined_thing|default('dd')
undefined_thing|default
e|default('x')
e|default('x', true)
no|default('x')
no|default('x', boolean=true)
undefined_thing|length
undefined_thing|list
undefined_thing|upper
undefined_thing|join(',')
undefined_thing|int
undefined_thing|tojson
[undefined_thing]
'%s' % undefined_thing
'x' in undefined_thing
undefined_thing in 'x'
undefined_thing in [1]
1 < 2 < 3
1 < 3 < 2
1 == 1.0
true == 1
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
(1, 2) == (1, 2)
[1] == (1,)
{'a': 1} == {'a': 1.0}
1 in [1, 2]
'ell' in s
1 in s
'a' in d
'zz' not in d
not 1 in [1]
[1] in [[1]]
[] in d
no in [None]
1 if t
1 if z
1 if z else 2
(1 if z) is defined
1 if z else 2 if t else 3
t and n
z or 'x'
z and undefined_thing.x
t and no
not t
not not t
[1, 2] + [3]
(1,) + (2,)
[1] * 3
'ab' * 3
3 * 'ab'
'ab' * -1
'a' + 1
1 + 'a'
[1] + (2,)
no + 1
-s
+t
-t
t + t
(1)
(1,)
()
(1, 2)
1, 2
[]
{}
{'a': 1, 'b': [1, 'x', None, True, 2.0]}
{1: 'a', 1.0: 'b', True: 'c'}
{[]: 1}
{(1,2): 3}[(1,2)]
[true, false, none, True, False, None]
['it\'s', "say \"hi\"", 'both \' and "']
['\n\t\\\x00\x7f é 世 \u200b']
d
users[0]
range(3)
range(3)|list
range(1, 10, 3)|list
range(5, 0, -2)|list
range(0)
range(3)[1]
range(10)[2:5]
range(200000)
range(1, 2, 0)
range('a')
3 in range(5)
dict(a=1, b=2)
dict([('a', 1)], c=3)
dict({'x': 1})
namespace(a=1).a
namespace(a=1)
namespace({'q': 2}).q
namespace(a=1)['a']
namespace(a=1).b
joiner()
lipsum
lipsum(
cycler()
cycler('a', 'b').next()
cycler('a', 'b').current
n.real
f.is_integer()
n.bit_length()
s.upper
s.upper()
s.lower()
s.title()
'they\'re bill\'s'.title()
s.capitalize()
s.swapcase()
u.upper()
u.lower()
u.title()
u.capitalize()
u.swapcase()
u.casefold()
s.split()
s.split(', ')
s.split('')
sp.split()
sp.split(' ')
sp.split(none, 1)
sp.split(maxsplit=1)
sp.rsplit(none, 1)
sp.rsplit(none, 2)
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
'a,b,c'.split(',', maxsplit=1)
''.split()
''.split(',')
ml.splitlines()
ml.splitlines(true)
'a\r\nb\rc\x0bd\u2028e'.splitlines()
sp.strip()
sp.lstrip()
sp.rstrip()
'xxaxx'.strip('x')
'xyaxy'.lstrip('yx')
'xxa  '.rstrip(' ')
'éaé'.strip('é')
s.strip(1)
s.strip(none)
s.startswith('He')
s.startswith(('x', 'He'))
s.startswith('l', 2)
s.startswith('l', 2, 3)
s.endswith('ld')
s.endswith(['ld'])
s.endswith(('a', 'ld'))
s.replace('l', 'L')
s.replace('l', 'L', 1)
s.replace('', '-')
'abc'.replace('', '-', 2)
s.find('o')
s.find('o', 5)
s.find('zz')
u.find('世')
u.rfind('ß')
s.rfind('o')
s.index('W')
s.index('zz')
s.rindex('o')
s.count('l')
s.count('')
s.join(['a', 'b'])
', '.join(xs)
', '.join(words)
'-'.join('abc')
s.removeprefix('Hello')
s.removesuffix('World')
s.partition(', ')
s.partition('zz')
s.rpartition('o')
s.rpartition('zz')
'42'.zfill(5)
'-42'.zfill(5)
'ab'.center(7)
'abc'.center(6, '*')
'ab'.ljust(4) ~ '|'
'ab'.rjust(4, '.')
'a\tb'.expandtabs()
'a\tb'.expandtabs(4)
'12'.isdigit()
'²'.isdigit()
'²'.isdecimal()
'½'.isnumeric()
'1a'.isalnum()
'ab'.isalpha()
''.isalpha()
'Ab'.isupper()
'AB1'.isupper()
'ab1'.islower()
'Hello World'.istitle()
' \t'.isspace()
'a b'.isprintable()
'a_1'.isidentifier()
'é'.isascii()
'{} and {}'.format(1, 'b')
'{0}-{1}-{0}'.format('a', 'b')
'{x} {y!r}'.format(x=1, y='q')
'{:>5}|{:<5}|{:^5}|'.format('a', 'b', 'c')
'{:05d} {:+d} {:x} {:#X} {:b} {:,}'.format(42, 42, 255, 255, 5, 1234567)
'{:.2f} {:8.3f} {:e} {:g} {:%}'.format(3.14159, 2.5, 12345.678, 0.0001, 0.25)
'{:.3} {}'.format(3.14159, 1e20)
'{:,.2f}'.format(1234567.891)
'{:05}'.format('ab')
'{a.b} {a[c]}'.format(a={'b': 1, 'c': 2})
'{0[0]}'.format(xs)
'{{}} {}'.format(1)
'{'.format(1)
'{}'.format()
'{:d}'.format('x')
'{:>{w}}'.format('a', w=4)
'{a}'.format_map({'a': 1})
'%s %r %d %5.2f %x %o %c %%' % ('a', 'b', 3, 2.345, 255, 8, 'z')
'%(a)s-%(b)05d' % {'a': 1, 'b': 2}
'%s' % 'x'
'%s %s' % 'x'
'%s' % ('a', 'b')
'%d' % 'x'
'%-5s|%5s|%+d|% d|%05d' % ('a', 'b', 1, 2, 3)
'%e %g %G' % (12345.678, 1e-7, 1e20)
'%d' % 3.99
'%s' % xs
'%s' % (xs,)
'%.3s' % 'abcdef'
'%y' % 1
s|upper
s|lower
s|title
'foo-bar (baz) [qux] x\'s'|title
s|capitalize
s|length
s|count
s|reverse
xs|reverse|list
s|list
s|first
s|last
xs|first
xs|last
empty|first
empty|last
xs|sort
xs|sort(reverse=true)
words|sort
words|sort(case_sensitive=true)
words|sort(true)
users|sort(attribute='age')|map(attribute='name')|list
users|sort(attribute='age,name')|map(attribute='name')|join(',')
users|sort(attribute='missing')|list|length
[1, 'a']|sort
d|dictsort
d|dictsort(true)
{'a': 2, 'b': 1}|dictsort(false, 'value')
{'a': 2, 'b': 1}|dictsort(by='value', reverse=true)
{'a': 2}|dictsort(by='x')
users|map(attribute='name')|list
users|map(attribute='city.zip')|list
users|map(attribute='city.zip', default='none')|list
users|map(attribute='tags.0', default='-')|join('|')
words|map('upper')|join
words|map('replace', 'a', 'X')|list
words|map('nofilter')|list
xs|map
xs|select('odd')|list
xs|reject('odd')|list
xs|select|list
[0, 1, '', 'a', none]|select|list
[0, 1, '', 'a', none]|reject|list
xs|select('gt', 1)|list
xs|select('>', 1)|list
xs|select('in', [1, 2])|list
users|selectattr('age', 'equalto', 30)|map(attribute='name')|list
users|rejectattr('age', 'eq', 30)|map(attribute='name')|list
users|selectattr('tags')|list|length
users|selectattr('tags', 'defined')|list|length
users|selectattr('role', 'undefined')|list|length
users|selectattr|list
(users|selectattr('age', 'eq', 99)) is defined
'yes' if users|selectattr('age', 'eq', 99) else 'no'
users|selectattr('age', 'eq', 99)|length
users|selectattr('age', 'eq', 30)|first
users|selectattr('age', 'eq', 30)|last
users|groupby('age')|length
users|groupby('age')|map('first')|list
users|groupby('name')|map(attribute='grouper')|list
users|groupby('city.zip', default='?')|map(attribute=0)|list
words|groupby(0)|list
xs|batch(2)|list
xs|batch(2, 'x')|list
range(7)|slice(3)|list
range(7)|slice(3, 'x')|list
xs|sum
users|sum(attribute='age')
xs|sum(start=10)
[[1],[2]]|sum(start=[])
words|sum
xs|min
xs|max
words|min
words|max
empty|max
users|max(attribute='age')
words|unique|list
words|unique(true)|list
[1, 1.0, true, 2]|unique|list
xs|join
xs|join(', ')
xs|join(n)
users|join(', ', attribute='name')
users|join('|', 'age')
d|join(',')
[none, true, 1.5, 'x', [1]]|join('-')
d|items|list
undefined_thing|items|list
xs|items|list
d|list
no|list
n|list
s|trim
sp|trim
'xxaxx'|trim('x')
s|replace('l', 'L')
s|replace('l', 'L', 1)
n|replace('4', '5')
s|center(20) ~ '|'
s|center ~ '|'
ml|indent
ml|indent(2)
ml|indent(2, true)
ml|indent(2, blank=true)
ml|indent('> ', first=true)
''|indent(first=true)
s|truncate(5)
s|truncate(5, true)
s|truncate(5, leeway=0)
'a long sentence for truncation'|truncate(12, end='…', leeway=0)
s|truncate(2)
s|wordcount
'a b-c d_e 世界 x'|wordcount
'The quick brown fox jumps over-the-lazy dog'|wordwrap(10)
'abcdefghijklmnop qr'|wordwrap(5)
'abcdefghijklmnop qr'|wordwrap(5, false)
'a b c'|wordwrap(3, wrapstring='|')
html|escape
html|e
html|e|e
html|forceescape|forceescape
html|safe
(html|safe) ~ '<'
(html|safe) + '<'
'<' + (html|safe)
html|striptags
'<p>a  &amp; b</p> <!-- c <b> --> d'|striptags
html|urlencode
'a b/ü'|urlencode
{'a b': 'c/d', 'e': 1}|urlencode
{'class': 'x"y', 'id': none, 'n': 3}|xmlattr
{'a': 1}|xmlattr(false)
{'a b': 1}|xmlattr
'42'|int
'0x1f'|int(base=16)
'1f'|int(0, 16)
'3.9'|int
'x'|int
'x'|int(-1)
'x'|int(default=none)
3.9|int
-3.9|int
no|int
t|int
' 7 '|int
'1_000'|int
'12e2'|int
'2.5'|float
'x'|float
'x'|float(1.5)
'inf'|float
'nan'|float
n|float
'1e3'|float
f|round
2.5|round
3.5|round
2.567|round(2)
2.561|round(2, 'ceil')
2.567|round(1, 'floor')
1234|round(-2)
2.5|round(0, 'up')
n|round
0.5|round|int
1250.0|round(-2)
-5|abs
(-2.5)|abs
s|abs
1|filesizeformat
1500|filesizeformat
1500000|filesizeformat(true)
'%s-%s'|format(1, 'a')
'%(x)s'|format(x=3)
'%s'|format(1, x=2)
d|tojson
users|tojson
d|tojson(indent=2)
users|tojson(indent=4)
nested|tojson(indent=1)
empty|tojson(indent=2)
ed|tojson(indent=2)
u|tojson
u|tojson(ensure_ascii=true)
'<&>\'"\\/\n\r\t\b\f\x01\x7f\u2028'|tojson
d|tojson(sort_keys=true)
d|tojson(separators=(',', ':'))
d|tojson(separators=(', ', ' = '), indent=2)
{'a': [1, {'b': []}]}|tojson(indent='--')
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
{(1,): 2}|tojson
(1, 2)|tojson
1.0|tojson
1e20|tojson
'inf'|float|tojson
no|tojson
t|tojson
big|tojson
range(3)|tojson
d.items()|tojson
namespace()|tojson
xs|map('string')|tojson
s|safe|tojson
d|attr('items')
d|attr('a')
n|string
no|string
xs|string
xs|pprint
s|nofilter
s is nosuchtest
n is odd
n is even
n is divisibleby 7
n is divisibleby(5)
s is odd
s is string
n is string
html|safe is string
d is mapping
xs is mapping
xs is sequence
s is sequence
d is sequence
n is sequence
undefined_thing is sequence
xs is iterable
n is iterable
s is iterable
xs|map('string') is iterable
no is none
no is not none
not no is none
t is boolean
t is true
t is false
n is true
n is integer
t is integer
f is float
n is float
n is number
t is number
s is number
s is lower
'abc' is lower
'ABC' is upper
n is upper
s is callable
range is callable
s.upper is callable
n is eq 42
n is equalto 42
n is ne 42
n is gt 41
n is greaterthan(50)
n is lessthan 50
n is le 42
n is ge(42)
n is lt 'a'
n is in [42]
n is not in [42]
'a' is in d
n is sameas n
no is sameas none
1 is sameas true
xs is sameas xs
'upper' is filter
'nope' is filter
'odd' is test
s is escaped
(s|escape) is escaped
n is defined and n is odd or t
n is odd is even
n is not odd
(n is odd) == false
raise_exception('boom')
raise_exception
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y %H:%M:%S %A %B %j %p %I %y %% %f')
strftime_now('%-d/%-m')
strftime_now()
messages[0].role
messages[0]['role'] == 'system'
messages[-1].content
messages[1:][0].content
messages|length - 1
messages|map(attribute='role')|unique|list
messages|selectattr('role', 'ne', 'system')|list|length
messages[0].content.split()[-1].strip('.')
(messages|last).content
{'a': {'b': 1}}.a.b
{'a': 1}.get('a')
[1, 2, 3][1]
[[1]][0][0]
'abc'[1]
'a' if t else 'b' ~ 'c'
('a' if t else 'b') ~ 'c'
1 ~ 2 + 3
1 + 2 ~ 3
n|string ~ 'x'
-n|abs
-1|abs
(1, 2)|join('-')
n.foo
no.foo
no.foo.bar
no['x']
no()
n()
s()
s.upper(1)
s.split(sep=',', maxsplit=1)
s.foo()
range(3, **{})
range(*[1, 4])|list
dict(**{'a': 1})
dict(**{'a': 1}, b=2)
dict(*[[('a', 1)]])
s.replace(old='l', new='x')
dict(a=1, a=2)
foo(a=1, 2)
[1, 2,]
{'a': 1,}
(1, 2,)
[,]
1 +
a b
a.
a[
a[]
xs[]
xs[1, 2]
d[1:2]
no[1:]
xs['1':]
s[none:3:none]
1 = 2
a = 1
@
'unterminated
{1: 2
(1]
true.x
none is none
None
True and not False
1.real
1.5.real
1..x
n . real
s [0]
s . upper ( )
08
1__0
""" .strip("\n").split("\n")

STATEMENTS = [
    "a\n{% if t %}\n  b\n{% endif %}\nc",
    "  {% if t %}x{% endif %}  \n  y",
    "a  {%- if t -%}  b  {%- endif -%}  c",
    "a {%+ if t %} b {%+ endif %} c",
    "  {%+ if t +%}\n b {% endif +%}\n c",
    "a\n  {# comment #}\n  b {#- c -#} \n d{# x +#}\ne",
    "a {{- 1 -}} b {{ 2 }}\n c {{+ 3 }}",
    "   {{ 1 }}\n   {{- 2 }}\n",
    "x\n\n", "x\n", "\n", "", "\n\nx", "a\r\nb\rc\n",
    "{% raw %}\n {{ x }} {% if %}\n{% endraw %}\nend",
    "a\n  {%- raw -%}  {{ x }}  {%- endraw -%}  b",
    "  {% raw %} {{ x }}\n  {% endraw %}\n b", "{% raw %}{% endraw", "{% raw %}x",
    "{# unterminated", "{{ unterminated", "{% if t", "{{ }}", "{% %}", "{{ '}}' }}", "{{ {'a': {}}}}",
    "{ { x } }", "{", "a{", "{%", "{{", "#} %} }}",
    "{% if z %}a{% elif n %}b{% else %}c{% endif %}", "{% if z %}a{% elif e %}b{% else %}c{% endif %}",
    "{% if t: %}a{% endif %}", "{% if %}a{% endif %}", "{% if t %}", "{% endif %}", "{% else %}",
    "{% if t %}{% endfor %}", "{% nosuch %}", "{% if 1, 2 %}x{% endif %}", "{% if xs == [] %}a{% else %}b{% endif %}",
    "{% for x in xs %}{{ x }},{% endfor %}", "{% for x in empty %}a{% else %}none{% endfor %}",
    "{% for x in xs %}{{ loop.index }}/{{ loop.length }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ loop.depth }} {{ loop.depth0 }}\n{% endfor %}",
    "{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in xs %}{{ loop.previtem is defined }}{{ loop.nextitem|default('end') }} {% endfor %}",
    "{% for x in range(5) %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in xs %}{{ loop.cycle() }}{% endfor %}",
    "{% for x in [1,1,2,2,1] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for c in u %}[{{ c }}]{% endfor %}",
    "{% for a, b in [[1, 2], [3]] %}{{ a }}{% endfor %}", "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in n %}{% endfor %}", "{% for x in no %}{% endfor %}", "{% for x in nope %}a{% else %}b{% endfor %}",
    "{% for x in range(10) if x is odd %}{{ loop.index }}:{{ x }} {% endfor %}",
    "{% for x in range(10) if x > 20 %}a{% else %}b{% endfor %}",
    "{% for x in range(4) if x is even %}{{ loop.length }}{{ loop.last }}{% endfor %}",
    "{% for x in xs if loop.first %}{% endfor %}",
    "{% for x in range(10) %}{% if x == 3 %}{% continue %}{% endif %}{% if x == 6 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in xs %}{% break %}{% else %}E{% endfor %}", "{% for x in xs %}{% continue %}{% else %}E{% endfor %}", "{% break %}", "{% macro m() %}{% break %}{% endmacro %}",
    "{% for x in xs %}{% for y in xs %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% endfor %}",
    "{% for x in xs %}{% for y in 'ab' %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in nested recursive %}{% if x is iterable %}[{{ loop(x) }}]{{ loop.depth }}{% else %}{{ x }}{% endif %}{% endfor %}",
    "{% for x in xs %}{{ loop(xs) }}{% endfor %}", "{% for loop in xs %}{% endfor %}", "{% for x in xs %}{{ loop }}{% endfor %}",
    "{% for x in users|map(attribute='name') %}{{ x }}{{ loop.length }}{{ loop.last }}{% endfor %}",
    "{% for x in users|map(attribute='name') %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in xs %}{% set y = x %}{% endfor %}{{ y }}", "{% set y = 0 %}{% for x in xs %}{% set y = x %}{{ y }}{% endfor %}{{ y }}",
    "{% for x in xs %}{{ y is defined }}{% set y = x %}{% endfor %}", "{{ x }}{% for x in xs %}{% endfor %}{{ x }}",
    "{% for x in xs %}{% if x == 1 %}{% set n = 9 %}{% endif %}{{ n }} {% endfor %}{{ n }}",
    "{% for i in range(3) %}{{ i }}{% endfor %}{{ loop is defined }}",
    "{% for x in [] %}{% else %}{{ loop is defined }}{% endfor %}",
    "{% set a = 1 %}{{ a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a %}x{{ n }}{% endset %}{{ a }}|{{ a|length }}",
    "{% set a | upper | replace('X', 'y') %}x{{ n }}{% endset %}{{ a }}", "{% set true = 1 %}", "{% set a.b = 1 %}", "{% set s.b = 1 %}", "{% set 1 = 2 %}", "{% set (a, b) = [1, 2] %}{{ b }}", "{% set a, b = 1 %}",
    "{% if t %}{% set q = 1 %}{% endif %}{{ q }}", "{% if z %}{% set n = 1 %}{% endif %}{{ n }}", "{% set s = s|upper %}{{ s }}", "{% set _p = 1 %}{{ _p }}",
    "{% set ns = namespace(c=0) %}{% for x in xs %}{% set ns.c = ns.c + x %}{% endfor %}{{ ns.c }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.b %}blk{% endset %}{{ ns.a }}{{ ns.b }}{{ ns.c }}", "{% set ns = namespace(a=1) %}{% set ns.a, x = 5, 6 %}{{ ns.a }}{{ x }}",
    "{% set ns = namespace(x=[]) %}{% set ns.x = ns.x + [1] %}{% set ns.x = ns.x + [2] %}{{ ns.x }}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% set c = 2 %}{% endwith %}{{ a }}{{ c }}", "{% with %}{% set n = 1 %}{{ n }}{% endwith %}{{ n }}", "{% with a = 1, b = a %}{{ b }}{% endwith %}", "{% with n = 5 %}{% with m = n %}{{ m }}{% endwith %}{% endwith %}",
    "{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(c=4, a=5) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}", "{% macro m(a) %}{{ a }}{{ varargs|length }}{{ kwargs.items()|list }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(3) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a, a) %}{% endmacro %}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}body {{ n }}{% endcall %}", "{% macro m() %}[{{ caller('x') }}]{% endmacro %}{% call(v) m() %}body {{ v }}{% endcall %}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{{ m() }}", "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}", "{% macro m(xs) %}{% for x in xs %}{{ caller(x, k=x) }}{% endfor %}{% endmacro %}{% call(v, k) m(xs) %}<{{ v }}{{ k }}>{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% macro m(caller) %}{{ caller }}{% endmacro %}{{ m(1) }}", "{% macro m(caller=none) %}{{ caller }}{% endmacro %}{{ m() }}",
    "{% macro fact(k) %}{% if k <= 1 %}1{% else %}{{ k * fact(k - 1)|int }}{% endif %}{% endmacro %}{{ fact(10) }}",
    "{% macro m() %}{{ later }}{% endmacro %}{% set later = 5 %}{{ m() }}", "{{ m() }}{% macro m() %}x{% endmacro %}", "{% macro m() %}{% set n = 1 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}",
    "{% macro m(a, b) %}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}{{ m }}", "{% macro outer() %}{% macro inner(x) %}<{{ x }}>{% endmacro %}{{ inner(1) }}{% endmacro %}{{ outer() }}{{ inner is defined }}",
    "{% macro m() %}  a\n  b\n{% endmacro %}{{ m()|trim }}|{{ m()|length }}|{{ m() is string }}", "{% for x in xs %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro m(x) %}{{ x }}{% endmacro %}{{ xs|map('string')|map('upper')|join }}{{ m(x=xs) }}",
    "{% filter upper %}abc {{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aaa{% endfilter %}", "{% filter nofilter %}a{% endfilter %}", "{% filter indent(2, true) %}a\nb{% endfilter %}", "{% call 1 %}{% endcall %}",
    "{% print 1, 'a' %}", "{% print n %}", "{% do xs.append(1) %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% from 'x' import y %}", "{% trans %}{% endtrans %}",
    "{% block a %}x{{ n }}{% endblock %}y{% block b scoped %}z{% endblock b %}", "{% for x in xs %}{% block a %}{{ x }}{% endblock %}{% endfor %}", "{% for x in xs %}{% block a scoped %}{{ x }}{% endblock %}{% endfor %}", "{% block a %}{% endblock %}{% block a %}{% endblock %}", "{% set q = 1 %}{% block a %}{{ q }}{% endblock %}",
    "{% autoescape true %}{{ html }}{{ html|safe }}{% endautoescape %}{{ html }}", "{% autoescape false %}{{ html }}{% endautoescape %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}|{% endfor %}", "{% generation %}{% set n = 1 %}{% endgeneration %}{{ n }}", "{% for x in xs %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% if z %}{{ s|nofilter }}{% endif %}ok", "{% if t %}{{ s|nofilter }}{% endif %}", "{{ 1 if t else s|nofilter }}", "{{ s|nofilter if z else 2 }}", "{% if z %}{% for x in xs %}{{ x|nofilter }}{% endfor %}{% endif %}", "{% macro m() %}{{ x|nofilter }}{% endmacro %}", "{% if s is nosuch %}{% endif %}", "{% if z and s is nosuch %}{% endif %}x", "{% for x in [] %}{{ x|nofilter }}{% endfor %}",
    "{% set c = cycler('a', 'b', 'c') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}{{ c.pos }}", "{% set j = joiner(' | ') %}{% for x in xs %}{{ j() }}{{ x }}{% endfor %}", "{% set j = joiner() %}{{ j() }}a{{ j() }}b",
    "{% set g = xs|map('string') %}{{ g|list }}{{ g|list }}", "{% set g = users|selectattr('age', 'eq', 30) %}{% for x in g %}{{ x.name }}{% endfor %}{{ g|list }}", "{% set r = xs|reverse %}{{ r|list }}{{ r|list }}", "{{ xs|select('odd')|map('string')|join(',')|upper }}",
    "{{ raise_exception('Conversation roles must alternate') }}", "{% if not messages %}{{ raise_exception('empty') }}{% endif %}ok",
    "{%- for message in messages %}\n  {%- if message.role == 'user' %}\n    {{- '<u>' + message.content }}\n  {%- endif %}\n{%- endfor %}\n",
    "{% for k, v in users|groupby('age') %}{{ k }}:{% for x in v %}{{ x.name }},{% endfor %};{% endfor %}", "{% for g in users|groupby('age') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}", "{% for row in range(5)|batch(2, '-') %}{{ row|join }};{% endfor %}",
    "{% set x = namespace %}{{ x(a=1).a }}", "{% set range = 5 %}{{ range }}", "{{ loop }}", "{{ self }}" if False else "{{ none }}", "{% if xs is not iterable %}a{% else %}b{% endif %}", "{% if not(s.startswith('x') and s.endswith('y')) %}ok{% endif %}",
    "{% set a = 'x' if z %}{{ a is defined }}", "{% set items = [] %}{% for x in xs %}{% set items = items + [x] %}{% endfor %}{{ items }}", "{{ {'a': xs, 'b': (1,)} }}", "{% if x is defined and x %}a{% endif %}b",
    "{% for x in range(3) -%}\n  {{ x }}\n{%- endfor %}\n", "line1\n    {% set a = 1 %}\n  {{ a }}\n\t{% if a %}\n  yes\n\t{% endif %}\nend\n", "a {% set x = 1 %} b\n{% set y = 2 %}\nc", "\t{#- x -#}\t\n a", "{{ 'a' }}\n{{ 'b' }}\n\n{{ 'c' }}", "x {%- set a = 1 +%}\ny", "{%- if t %}{%- endif %}\u00a0 x", "a\u00a0{%- if t %}b{% endif %}", "a\n\u00a0{% if t %}b{% endif %}",
]


def snippets():
    out = []
    for text in EXPRESSIONS:
        out.append("{{ " + text + " }}")
    out += STATEMENTS
    cases = [{"template": t, "expected": render(t, VARS)} for t in out]
    return [c for c in cases if not ADDRESS.search(c["expected"] or "")]


class RandomExpressions:
    ATOMS = ["0", "1", "-3", "7", "2.5", "'a'", "'Ab c'", "''", "true", "none", "s", "u", "e", "n", "z", "f",
             "xs", "words", "d", "empty", "sp", "ml", "nope", "users", "(1, 'b')", "['x', 2]", "{'k': 1}",
             "users[0].name", "xs[0]", "range(4)", "neg", "nested"]
    BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", "in", "not in", "and", "or"]
    FILTERS = ["upper", "lower", "title", "capitalize", "length", "list", "first", "last", "reverse", "sort",
               "join(',')", "int", "float", "string", "trim", "abs", "round", "sum", "min", "max", "unique|list",
               "default('D')", "default('D', true)", "tojson", "tojson(indent=1)", "replace('a', 'zz')", "wordcount", "indent(1)",
               "map('string')|list", "select|list", "reject|list", "batch(2)|list", "dictsort", "items|list",
               "center(9)", "truncate(4, leeway=0)", "escape", "urlencode", "striptags", "slice(2)|list", "count",
               "select('string')|list", "map('upper')|join('/')", "format(1)", "wordwrap(3)", "map('length')|list"]
    TESTS = ["defined", "none", "string", "number", "mapping", "iterable", "sequence", "odd", "even", "true", "false",
             "boolean", "integer", "float", "lower", "upper", "in xs", "eq 1", "sameas none", "divisibleby 2", "callable"]
    METHODS = ["upper()", "strip()", "split()", "split('a')", "startswith('a')", "title()", "find('b')", "count('a')",
               "isdigit()", "join(words)", "items()|list", "keys()|list", "get('a')", "index(1)", "rsplit(none, 1)",
               "zfill(6)", "partition(' ')", "rjust(5, '*')", "splitlines()", "replace('a', 'b', 1)", "isalpha()", "swapcase()"]

    def __init__(self, seed):
        self.random = random.Random(seed)

    def make(self, depth):
        r = self.random
        if depth == 0:
            return r.choice(self.ATOMS)
        kind = r.randrange(10)
        if kind < 3:
            return f"({self.make(depth - 1)} {r.choice(self.BINARY)} {self.make(depth - 1)})"
        if kind < 6:
            return f"{self.make(depth - 1)}|{r.choice(self.FILTERS)}"
        if kind == 6:
            return f"({self.make(depth - 1)} is {r.choice(['', 'not '])}{r.choice(self.TESTS)})"
        if kind == 7:
            return f"({self.make(depth - 1)}).{r.choice(self.METHODS)}"
        if kind == 8:
            index = r.choice(["0", "-1", "1:", "::-1", ":2", "'a'", "5", "-3:-1", "::2", "1:0:-1"])
            return f"({self.make(depth - 1)})[{index}]"
        return f"({self.make(depth - 1)} if {self.make(depth - 1)} else {self.make(depth - 1)})"


def random_cases(count, seed):
    maker = RandomExpressions(seed)
    out, errors = [], 0
    while len(out) < count:
        t = "{{ " + maker.make(maker.random.randrange(1, 4)) + " }}"
        expected = render(t, VARS)
        unfolded = "{% set q = " + t[3:-3] + " %}{{ q }}"
        if ADDRESS.search(expected or "") or expected != render(unfolded, VARS, UNFOLDED):
            continue
        if expected is None:
            errors += 1
            if errors > count // 4:
                continue
        out.append({"template": t, "expected": expected})
    return out


TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Wetter <jetzt> & \"später\" 🌦",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "City"},
        "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
        "days": {"type": ["integer", "null"]}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "noop", "description": "", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001", "type": "function", "function": {
    "name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "f": 1.0, "ok": True, "x": None}}}]}
CALL_TEXT = {"role": "assistant", "content": None, "tool_calls": [{"id": "call00001", "type": "function", "function": {
    "name": "get_weather", "arguments": "{\"city\": \"Zürich\"}"}}]}
TWO_CALLS = {"role": "assistant", "content": "I look.", "tool_calls": [
    dict(CALL["tool_calls"][0]), {"id": "call00002", "type": "function", "function": {"name": "noop", "arguments": {}}}]}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "You are terse."}
RESULT = {"role": "tool", "content": "{\"t\": 21}", "tool_call_id": "call00001", "name": "get_weather"}
CONVERSATIONS = {
    "one": [user("Hi")],
    "system": [SYSTEM, user("  Hi there \n")],
    "turns": [SYSTEM, user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
    "think": [user("q"), assistant("<think>\nhm\n\nok\n</think>\n\nA"), user("r"), assistant("<think>x</think>B")],
    "reasoning": [user("q"), assistant("A", reasoning_content="because"), user("next")],
    "reasoning_last": [user("q"), assistant("A", reasoning_content="because")],
    "reasoning_none": [user("q"), assistant("A", reasoning_content=None, thinking="t")],
    "unicode": [user("Grüße 世界 😀 \u202e \"q\" <b>&amp;'"), assistant("ñ\t\\n")],
    "empty": [user(""), assistant(""), user(" ")],
    "none_at_all": [],
    "parts": [user([{"type": "text", "text": "A"}, {"type": "image"}, {"type": "text", "text": "B"}])],
    "call": [SYSTEM, user("w?"), CALL, RESULT, user("thanks")],
    "call_open": [user("w?"), CALL, RESULT],
    "call_text": [user("w?"), CALL_TEXT, RESULT, assistant("21"), user("?")],
    "two_calls": [user("w?"), TWO_CALLS, RESULT, dict(RESULT, content="second"), assistant("done")],
    "bad_order": [assistant("x"), user("y")],
    "two_users": [user("x"), user("y")],
    "missing_content": [user("x"), {"role": "assistant"}],
    "odd_role": [{"role": "critic", "content": "no"}],
    "late_system": [user("x"), SYSTEM, assistant("y"), user("z")],
    "tool_response_user": [user("q"), assistant("a"), user("<tool_response>r</tool_response>")],
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
OPTIONS = [{}, {"tools": TOOLS}, {"add_generation_prompt": False},
           {"enable_thinking": False}, {"enable_thinking": True, "tools": TOOLS},
           {"documents": [{"title": "T", "text": "body"}]}, {"tools": TOOLS, "tools_in_user_message": False},
           {"builtin_tools": ["code_interpreter", "get_weather"], "date_string": "1 Jan 2025"}]

OWN = {
    "bracket_style": """{%- if messages and messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(turn=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.turn % 2 == 0) %}
            {{- raise_exception("turns must alternate, starting with the user") }}
        {%- endif %}
        {%- set ns.turn = ns.turn + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("call ids must have nine characters") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] in ["tool", "tool_results"] %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[RESULTS] {"content": ' + content|string + "}[/RESULTS]" }}
    {%- else %}
        {{- raise_exception("unknown role: " + message.role) }}
    {%- endif %}
{%- endfor %}
""",
    "turn_style": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("roles must alternate") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("bad content") }}
    {%- endif -%}
    {{ '</turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<turn>model\\n'}}
{%- endif -%}
""",
    "typed_macros": """{%- macro render_type(spec, required=none) -%}
    {%- if spec.type is string and spec.type == "array" -%}
        {{- render_type(spec.get("items", {})) + "[]" -}}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string -%}
        {%- for t in spec.type -%}{{ t }}{%- if not loop.last %} | {% endif -%}{%- endfor -%}
    {%- elif spec.enum is defined -%}
        {%- for v in spec.enum -%}{{ v|tojson }}{{ " | " if not loop.last else "" }}{%- endfor -%}
    {%- elif spec.type == "object" -%}
        {{- "{\\n" }}
        {%- for name, prop in spec.get("properties", {}).items() %}
            {%- if prop.description %}{{ "// " ~ prop.description ~ "\\n" }}{%- endif %}
            {{- name ~ ("" if name in (spec.required or []) else "?") ~ ": " ~ render_type(prop) }}
            {%- if prop.default is defined %}{{ ", // default: " ~ (prop.default|tojson if prop.default is string else prop.default) }}{%- else %}{{ "," }}{%- endif %}
            {{- "\\n" }}
        {%- endfor %}
        {{- "}" }}
    {%- else -%}
        {{- spec.type|default("any", true) -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro section(title) -%}
    {{- "## " ~ title|title ~ "\\n" ~ caller() ~ "\\n" -}}
{%- endmacro -%}
{%- set reasoning = reasoning_effort|default("medium") -%}
{{- "<|start|>system<|message|>Date: " + strftime_now("%Y-%m-%d") + "\\nReasoning: " + reasoning + "\\n" -}}
{%- if tools -%}
    {%- call section("tools") -%}
        {%- for tool in tools|map(attribute="function") -%}
            {{- "// " + tool.description|replace("\\n", "\\n// ") + "\\ntype " + tool.name + " = (_: " + render_type(tool.parameters) + ") => any;\\n" -}}
        {%- endfor -%}
    {%- endcall -%}
{%- endif -%}
{{- "<|end|>" -}}
{%- set last = namespace(call=none) -%}
{%- for message in messages -%}
    {%- if message.role == "assistant" -%}
        {%- if "tool_calls" in message -%}
            {%- for c in message.tool_calls -%}
                {%- set last.call = c.function.name -%}
                {{- "<|start|>assistant to=functions." ~ c.function.name ~ "<|message|>" ~ (c.function.arguments if c.function.arguments is string else c.function.arguments|tojson) ~ "<|call|>" -}}
            {%- endfor -%}
        {%- elif loop.last and not add_generation_prompt -%}
            {%- if message.reasoning_content is defined and message.reasoning_content -%}
                {{- "<|start|>analysis<|message|>" ~ message.reasoning_content ~ "<|end|>" -}}
            {%- endif -%}
            {%- generation -%}{{- "<|start|>assistant<|message|>" ~ message.content ~ "<|return|>" -}}{%- endgeneration -%}
        {%- else -%}
            {{- "<|start|>assistant<|message|>" ~ message.content ~ "<|end|>" -}}
        {%- endif -%}
    {%- elif message.role == "tool" -%}
        {%- if last.call is none -%}{{- raise_exception("tool result before any call") -}}{%- endif -%}
        {{- "<|start|>functions." ~ last.call ~ "<|message|>" ~ message.content|tojson ~ "<|end|>" -}}
    {%- else -%}
        {{- "<|start|>" ~ message.role ~ "<|message|>" ~ message.content ~ "<|end|>" -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
""",
    "json_block_style": """{% set tool_texts %}
{% for tool in tools or [] %}
{{ tool.function | tojson(indent=2) | indent(4, first=true) }}
{% endfor %}
{% endset %}
{% if documents %}
<docs>
{% for doc in documents %}
[{{ loop.index0 }}] {% for k, v in doc|items %}{{ k|capitalize }}: {{ v }}{{ "; " if not loop.last }}{% endfor %}

{% endfor %}
</docs>
{% endif %}
{%- if tool_texts|trim %}
TOOLS:
{{ tool_texts }}
{%- endif %}
{% for message in messages if message.role != 'system' %}
  {% if message.content is none or message.content is undefined %}
    {% continue %}
  {% endif %}
  {% set text = message.content if message.content is string else message.content|selectattr('type', 'equalto', 'text')|map(attribute='text')|join(' ') %}
  {% if text|length > 200 %}{% break %}{% endif %}
{{ loop.index }}. {{ '%-10s'|format(message.role|upper) }}: {{ text|replace('\\n', ' ')|trim|default('(nothing)', true) }}
  {% if loop.nextitem is defined and loop.nextitem.role == message.role %}
^ repeated
  {% endif %}
{% else %}
(no messages)
{% endfor %}
{% with roles = messages|map(attribute='role')|unique|list|sort %}
{{ roles|join(', ') }}{{ ' +' ~ roles|length if roles }}
{% endwith %}
{% filter trim %}
   {{ 'ASSISTANT:' if add_generation_prompt else eos_token }}
{% endfilter %}
""",
}


def variables_for(conversation, options):
    # What Transformers passes: absent tools and documents are None.
    return {**SPECIAL, "messages": CONVERSATIONS[conversation], "tools": None, "documents": None,
            "add_generation_prompt": True, **options}


def chats(templates):
    cases = []
    for name, text in templates.items():
        for conversation in CONVERSATIONS:
            for index, options in enumerate(OPTIONS):
                cases.append([name, conversation, index,
                              render(text, variables_for(conversation, options))])
    return {"conversations": CONVERSATIONS, "options": OPTIONS, "special": SPECIAL, "cases": cases}


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=None, separators=(",", ":"))
    text = text.replace("},{\"template\"", "},\n{\"template\"").replace("],[\"", "],\n[\"")
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def main():
    warnings.simplefilter("ignore", SyntaxWarning)
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", type=int, default=1500)
    parser.add_argument("--random-out")
    args = parser.parse_args()
    if args.random_out:
        pathlib.Path(args.random_out).write_text(json.dumps(
            {"variables": VARS, "cases": random_cases(args.random, args.seed)}), encoding="utf-8")
        return
    HERE.mkdir(exist_ok=True)
    write("snippets.json", {"variables": VARS, "cases": snippets()})
    write("random.json", {"variables": VARS, "cases": random_cases(args.random, args.seed)})
    write("chats.json", {"templates": OWN, **chats(OWN)})
    if args.shared:
        files = {p.name: p.read_text(encoding="utf-8")
                 for p in sorted((args.shared / "chat_templates").glob("*.jinja"))}
        write("model_chats.json", chats(files))


if __name__ == "__main__":
    main()
