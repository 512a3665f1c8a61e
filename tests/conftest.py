"""Options of the whole test run."""


def pytest_addoption(parser):
    group = parser.getgroup("graphopt")
    group.addoption("--update-goldens", action="store_true", help="rewrite tests/passes/*.md")
    group.addoption("--update-snapshots", action="store_true", help="rewrite tests/cli/*.md")
