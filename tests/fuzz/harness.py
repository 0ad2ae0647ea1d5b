"""One door before libFuzzer, which goes by coverage.

Half of the mutants are libFuzzer's own, half are those of `mutation.py`, which knows documents. Importing this
instruments the programs, which takes a while: import it before them, and once.
"""

import hashlib
import sys
from random import Random  # noqa: TID251 - seeded by libFuzzer

import atheris

with atheris.instrument_imports(
    include=["agent", "converter", "fleet", "wire", "tarfile", "tomllib"]
):
    from tests.fuzz.door import try_uncounted
    from tests.fuzz.mutation import mutated, plan_of
    from tests.fuzz.table import all_doors


def fuzz(name, options, folder):
    """Fuzz a door with libFuzzer's options; ends the process. What breaks a claim is put into `folder`."""
    door = all_doors()[name]

    def one(data):
        try:
            try_uncounted(door, data)
        except BaseException:
            digest = hashlib.sha256(data).hexdigest()
            (folder / f"crash-{digest[:40]}").write_bytes(data)
            raise

    def mutant(data, max_bytes, seed):
        random = Random(seed)
        if random.random() < 0.5:
            return atheris.Mutate(data, max_bytes)
        is_repaired = door.repaired is not None and random.random() < 0.5
        made = mutated(data, plan_of(random), in_place=is_repaired)
        return (door.repaired(made) if is_repaired else made)[:max_bytes]

    program = sys.argv[0]
    atheris.Setup([program, *options], one, custom_mutator=mutant)
    atheris.Fuzz()
