"""Options and set-up of the whole test run."""

import signal

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("graphopt")
    group.addoption("--update-goldens", action="store_true", help="rewrite tests/passes/*.md")
    group.addoption("--update-snapshots", action="store_true", help="rewrite tests/cli/*.md")


def pytest_configure():
    # A job that a shell starts in the background ignores Ctrl-C, and so would its children:
    # the tests that send the signal would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip what needs torch, or another optimizer, where the extra is not installed."""
    from graphopt.errors import MissingExtraError

    try:
        return (yield)
    except MissingExtraError as error:
        if error.message.endswith(("needs torch", "is not installed")):
            pytest.skip(str(error.message))
        raise
