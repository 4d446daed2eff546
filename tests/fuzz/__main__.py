"""`python -m tests.fuzz --seconds 600 [--seed N] [--kind NAME] [--number N]`: exit code 1 if anything is wrong."""

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom

os.environ["OMP_NUM_THREADS"] = "1"  # children are copies of this process, which must have no threads
from .fixtures import BACKENDS, make_fixtures, warm
from .harness import Findings, fuzz, run_one
from .kinds import KINDS


def in_a_child(work: Callable[[], object]) -> None:
    """Does work in a copy of this process, so that the threads which it starts are not of this one."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the unspoiled inputs could not be made")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Mutated inputs for every command.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kind", choices=sorted(KINDS), action="append")
    parser.add_argument("--number", type=int, help="run this one again, of the one --kind and the --seed")
    parser.add_argument("--most", type=int, default=10**9, help="inputs at most")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="of the bundle that is spoiled")
    parser.add_argument("--fixtures", type=Path, help="a folder to keep the unspoiled inputs in")
    options = parser.parse_args()
    seed = SystemRandom().randrange(2**32) if options.seed is None else options.seed
    chosen = {name: kind for name, kind in KINDS.items() if not options.kind or name in options.kind}
    with tempfile.TemporaryDirectory() as folder:
        fixtures = options.fixtures or Path(folder)
        in_a_child(lambda: make_fixtures(fixtures, tuple(options.backends.split(","))))
        warm()
        if options.number is not None:
            findings, name = Findings(), next(iter(chosen))
            run_one(findings, chosen[name], name, fixtures, seed, options.number, print)
        else:
            findings = fuzz(chosen, fixtures, seed, options.seconds, options.most)
    total = sum(findings.counts.values())
    print(f"seed {seed}: {total} inputs, {len(findings.wrong)} wrong, slowest {findings.slowest:.1f} s")
    for name, count in findings.counts.items():
        print(f"  {name}: {count} inputs, {findings.seconds[name] / count:.2f} s each")
    print("exit codes: " + ", ".join(f"{code}: {count}" for code, count in findings.codes.most_common()))
    return 1 if findings.wrong or not total else 0


if __name__ == "__main__":
    sys.exit(main())
