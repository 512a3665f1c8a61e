"""Replace a bundle again and again, until killed. Run by `test_publishing`.

python publish_and_die.py steps BUNDLE OTHER DESTINATION [two-steps]
    In a child process each: replace DESTINATION and die at the n-th event of the file system, for
    every n until one replacement survives; print after each death what is at DESTINATION.
python publish_and_die.py loop BUNDLE OTHER DESTINATION
    Replace DESTINATION for ever, by turns.
"""

import itertools
import os
import signal
import sys
from pathlib import Path

from graphopt.deploy import Bundle, publishing, recover

EVENTS = {
    "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.copyfile",
    "ctypes.call_function", "fcntl.flock", "os.scandir", "os.listdir", "os.fwalk", "os.walk",
}  # fmt: skip


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def die_at(number):
    """Let this process be killed at an event of the file system, as `kill -9` would."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def replace_and_die(bundle, destination, number):
    child = os.fork()
    if child == 0:
        die_at(number)
        bundle.save(destination, force=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def leftovers(destination):
    return list(destination.parent.glob(".*"))


def steps(bundles, destination, two_steps):
    if two_steps:
        publishing.exchange = lambda first, second: False
    number, most = 1, 0
    while replace_and_die(bundles[number % 2], destination, number):
        most = max(most, len(leftovers(destination)))
        is_there = destination.exists()
        recover(destination)
        Bundle.load(destination)  # old or new, never half of one
        say(number, "there" if is_there else "recovered")
        number += 1
    Bundle.load(destination)
    say("leftovers", most, len(leftovers(destination)))


def loop(bundles, destination):
    say("ready")
    for bundle in itertools.cycle(bundles):
        bundle.save(destination, force=True)


if __name__ == "__main__":
    task, first, second, target, *rest = sys.argv[1:]
    loaded = [Bundle.load(first), Bundle.load(second)]
    if task == "steps":
        steps(loaded, Path(target), bool(rest))
    else:
        loop(loaded, Path(target))
