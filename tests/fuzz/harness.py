"""Fuzz one door by coverage: `python -m tests.fuzz.harness DOOR [libFuzzer's options] CORPUS`.

Half of the mutants are libFuzzer's own, half are those of `mutation.py`, which knows documents.
"""

import sys
from random import Random  # noqa: TID251 - seeded by libFuzzer

import atheris

with atheris.instrument_imports(
    include=["agent", "converter", "fleet", "wire", "tarfile", "tomllib"]
):
    from tests.fuzz.door import try_uncounted
    from tests.fuzz.mutation import mutated, plan_of
    from tests.fuzz.table import all_doors


def main():
    program, name, *options = sys.argv
    door = all_doors()[name]

    def mutant(data, max_bytes, seed):
        random = Random(seed)
        if random.random() < 0.5:
            return atheris.Mutate(data, max_bytes)
        is_repaired = door.repaired is not None and random.random() < 0.5
        made = mutated(data, plan_of(random), in_place=is_repaired)
        return (door.repaired(made) if is_repaired else made)[:max_bytes]

    atheris.Setup(
        [program, *options], lambda data: try_uncounted(door, data), custom_mutator=mutant
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
