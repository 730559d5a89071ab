"""Prints the N-th command of the README's section "Two commands"."""

import re
import sys
from pathlib import Path

section = Path("README.md").read_text().split("\n## Two commands\n")[1].split("\n## ")[0]
commands = re.findall(r"```sh\n(.*?)```", section, re.S)
assert len(commands) == 2, "the section has two commands"
print(commands[int(sys.argv[1]) - 1].strip())
