"""docs/serving.md and docs/errors.md against the binary and the sources: every option of serve is
documented, every documented option exists, and every gRPC status of the server is explained."""

import re
import unittest

import worlds

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def options_of(command):
  done = worlds.run(command, "--help")
  assert done.returncode == 0, done.stderr
  return set(OPTION.findall(done.stdout.decode())) - {"--help"}


def text_of(name):
  return (worlds.SOURCE / name).read_text()


def subcommands():
  listed = worlds.run("--help").stdout.decode().split("Subcommands:")[1]
  return re.findall(r"^  (\w+)  ", listed, re.MULTILINE)


class Options(unittest.TestCase):

  def test_every_option_of_serve_is_documented(self):
    options = options_of("serve")
    self.assertGreater(len(options), 20)
    told = set(OPTION.findall(text_of("docs/serving.md")))
    self.assertEqual(options - told, set())

  def test_documents_name_no_option_that_does_not_exist(self):
    known = set().union(*(options_of(c) for c in subcommands())) | {"--help", "--version"}
    known |= {"--bind-to", "--cpus-per-task"}  # mpirun's and Slurm's
    self.assertIn("--tp", known)
    told = set(OPTION.findall(text_of("docs/serving.md")))
    self.assertEqual(told - known, set())

  def test_every_status_that_the_server_can_send_is_explained(self):
    sent = set()
    for path in (worlds.SOURCE / "runtime/server").glob("*.cc"):
      sent |= set(re.findall(r"StatusCode::([A-Z_]+)", path.read_text()))
      sent |= {re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper() for name in re.findall(
          r"absl::(\w+)Error\(", path.read_text())}
    sent -= {"OK"}
    self.assertIn("UNAVAILABLE", sent)
    errors = text_of("docs/errors.md")
    self.assertEqual({s for s in sent if f"| {s} |" not in errors}, set())


if __name__ == "__main__":
  unittest.main()
