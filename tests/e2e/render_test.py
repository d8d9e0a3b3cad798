"""`tandem render`: the exact rendering from only a template; errors of one line."""

import json
import pathlib
import shutil
import tempfile
import unittest

import worlds


class Render(unittest.TestCase):

  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def render(self, template, document, model=None):
    file = self.folder / "chat_template.jinja"
    file.write_text(template)
    messages = self.folder / "messages.json"
    messages.write_text(document if isinstance(document, str) else json.dumps(document))
    return worlds.run("render", model or file, "--messages", messages)

  def test_a_folder_with_only_a_template_and_a_file(self):
    template = ("{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
                "{{ tools | tojson }}{{ mood }}{% if add_generation_prompt %}>{% endif %}")
    document = {"messages": [{"role": "user", "content": "h\u00e9 <s>"}],
                "tools": [{"z": 1, "a": 2}], "mood": "good"}
    for model in (None, self.folder):
      done = self.render(template, document, model)
      self.assertEqual(done.returncode, 0, done.stderr)
      self.assertEqual(done.stdout.decode(),
                       'user=h\u00e9 <s>;[{"z": 1, "a": 2}]good>')
    done = self.render(template, {**document, "add_generation_prompt": False})
    self.assertTrue(done.stdout.endswith(b"good"))

  def test_a_separate_template_for_tools(self):
    more = self.folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("with {{ tools|length }}")
    try:
      for tools, said in ((None, b"plain"), ([{"a": 1}], b"with 1")):
        document = {"messages": [{"role": "user", "content": "x"}], "tools": tools}
        self.assertEqual(self.render("plain", document, self.folder).stdout, said)
    finally:
      shutil.rmtree(more)

  def test_errors(self):
    fine = {"messages": []}
    for template, document, code, said in (
        ("{{ raise_exception('not so') }}", fine, 65, "chat template: not so"),
        ("{% if %}", fine, 65, "line 1"),
        ("x", "{", 65, "messages.json: byte"),
        ("x", {"tools": []}, 65, 'has no "messages"'),
        ("x", {"messages": {}}, 65, "messages: found object, expected a list"),
        ("x", {"messages": [1]}, 65, "expected a list of objects"),
    ):
      with self.subTest(template=template, document=document):
        done = self.render(template, document)
        self.assertEqual((done.returncode, done.stdout), (code, b""))
        self.assertIn(said, done.stderr.decode())
        self.assertEqual(done.stderr.count(b"\n"), 1)
    done = worlds.run("render", self.folder, "--messages", self.folder / "missing.json")
    self.assertEqual(done.returncode, 65)
    self.assertEqual(worlds.run("render", self.folder).returncode, 64)


if __name__ == "__main__":
  unittest.main()
