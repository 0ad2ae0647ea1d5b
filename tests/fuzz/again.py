"""Try one payload at one door again: `python -m tests.fuzz.again DOOR HEX`, or a file in place of HEX."""

import sys
from pathlib import Path

from tests.fuzz.door import try_door
from tests.fuzz.table import all_doors


def main():
    name, given = sys.argv[1:]
    path = Path(given)
    payload = (
        path.read_bytes() if given and len(given) < 255 and path.is_file() else bytes.fromhex(given)
    )
    is_accepted = try_door(all_doors()[name], payload)
    sys.stdout.write(f"{len(payload)} bytes, {'accepted' if is_accepted else 'refused'}\n")


if __name__ == "__main__":
    main()
