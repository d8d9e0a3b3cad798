"""Small tasks with one right answer each, for the demo model.

Every task has a key that describes the question independently of its wording.
A hash of the key decides whether the task may be used in training. So a held-out
task never occurs in training, not even with swapped numbers or other words.
"""

import dataclasses
import hashlib
import random

KINDS = ("add", "sort", "reverse", "story")

NAMES = (
    "Mia Tom Ada Ben Eva Leo Zoe Max Ivy Sam Lea Jon Amy Dan Kim Rob "
    "Nina Paul Rosa Hugo Lily Omar Vera Finn"
).split()
ANIMALS = (
    "cat dog fox owl hen duck goat horse mouse rabbit otter pony sheep frog "
    "turtle donkey"
).split()
PLACES = (
    "lake park forest beach market garden hill river farm village field castle"
).split()
THINGS = (
    "key lamp book cup ball hat coin bell map rope shell drum box spoon kite "
    "stone"
).split()
COLOURS = "red blue green black white brown pink grey gold orange".split()
ENDINGS = {
    "sunny": "The sun was warm, so they stayed until evening.",
    "rainy": "Then it began to rain, so they ran home.",
    "windy": "The wind was strong, so they walked home slowly.",
    "snowy": "Snow fell all day, so they built a snowman.",
}
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "Answer briefly and correctly.",
)


@dataclasses.dataclass(frozen=True)
class Task:
  """A question, its only right answer, and the key that identifies it."""

  kind: str
  question: str
  answer: str
  key: str


def split_of(task: Task) -> str:
  """Says which part a task belongs to: train (90 %), validation or test."""
  digest = hashlib.sha256(f"{task.kind}/{task.key}".encode()).digest()
  bucket = digest[0] * 256 + digest[1]
  if bucket % 20 == 0:
    return "test"
  if bucket % 20 == 1:
    return "validation"
  return "train"


def make_task(kind: str, rng: random.Random) -> Task:
  """Makes a random task of the given kind, of whatever split."""
  return _MAKERS[kind](rng)


def make_task_of(split: str, kind: str, rng: random.Random) -> Task:
  """Makes a random task of the given kind that belongs to `split`."""
  while True:
    task = make_task(kind, rng)
    if split_of(task) == split:
      return task


def _article(noun: str) -> str:
  return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def _make_add(rng: random.Random) -> Task:
  limits = (10, 100, 1000)
  # Large numbers are most of what there is to learn; small ones are few.
  a, b = (rng.randrange(rng.choices(limits, (1, 4, 5))[0]) for _ in range(2))
  question = rng.choice(("What is {} + {}?", "Add {} and {}.")).format(a, b)
  key = f"{min(a, b)}+{max(a, b)}"
  return Task("add", question, f"{a} + {b} = {a + b}", key)


def _make_sort(rng: random.Random) -> Task:
  numbers = rng.sample(range(100), rng.randint(3, 5))
  given = " ".join(map(str, numbers))
  in_order = " ".join(map(str, sorted(numbers)))
  question = rng.choice(("Sort these numbers: {}", "Put in order: {}"))
  return Task("sort", question.format(given), in_order, in_order)


def _make_reverse(rng: random.Random) -> Task:
  if rng.random() < 0.5:
    what = "letters"
    items = rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 7))
  else:
    what = "words"
    words = ANIMALS + PLACES + THINGS + COLOURS
    items = rng.choices(words, k=rng.randint(3, 6))
  given = " ".join(items)
  answer = " ".join(reversed(items))
  return Task("reverse", f"Reverse the {what}: {given}", answer, given)


def _make_story(rng: random.Random) -> Task:
  name = rng.choice(NAMES)
  animal = rng.choice(ANIMALS)
  place = rng.choice(PLACES)
  facts = {"name": name, "animal": animal, "place": place}
  sentences = [
      f"{name} had {_article(animal)}.",
      f"One day {name} and the {animal} went to the {place}.",
  ]
  if rng.random() < 0.6:
    thing = rng.choice(THINGS)
    facts["thing"] = thing
    sentences.append(f"There the {animal} found {_article(thing)}.")
  # Every story has at least one of the two optional facts.
  if "thing" not in facts or rng.random() < 0.5:
    weather = rng.choice(tuple(ENDINGS))
    facts["weather"] = weather
    sentences.append(ENDINGS[weather])
  else:
    sentences.append(f"{name} took the {facts['thing']} home.")
  lines = [f"{fact}: {value}" for fact, value in facts.items()]
  key = ", ".join(lines)
  rng.shuffle(lines)
  question = "\n".join(["Tell a story from these facts.", *lines])
  return Task("story", question, " ".join(sentences), key)


_MAKERS = {
    "add": _make_add,
    "sort": _make_sort,
    "reverse": _make_reverse,
    "story": _make_story,
}
