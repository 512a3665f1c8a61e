import pytest

from graphopt.cli.pipeline_words import pipeline_text
from graphopt.errors import OptionError, UnknownNameError, UsageError


def test_text_is_taken_as_it_is():
    assert pipeline_text("@exact", None, (), ()) == "@exact"


def test_file_is_read(tmp_path):
    path = tmp_path / "recipe"
    path.write_text("fold-constants,\neliminate-dead-nodes\n")
    assert pipeline_text(None, path, (), ()) == "fold-constants,\neliminate-dead-nodes"


def test_names_and_values_are_joined_in_order():
    values = ("b.x=1", "b.y=[2,3]", "a.ratio=0.5")
    assert pipeline_text(None, None, ("b", "a", "c"), values) == "b{x=1 y=[2,3]},a{ratio=0.5},c"


def test_value_may_hold_dots_and_equal_signs():
    assert pipeline_text(None, None, ("a",), ('a.b="c.d=e"',)) == 'a{b="c.d=e"}'


@pytest.mark.parametrize(("text", "names"), [(None, ()), ("@exact", ("a",))])
def test_exactly_one_form(text, names):
    with pytest.raises(UsageError, match="exactly one way"):
        pipeline_text(text, None, names, ())


def test_values_need_names():
    with pytest.raises(UsageError, match="goes with `-p`"):
        pipeline_text("@exact", None, (), ("a.b=1",))


@pytest.mark.parametrize("value", ["a.b", "a=1", "=", ""])
def test_malformed_value(value):
    with pytest.raises(OptionError, match="does not fit `--set`"):
        pipeline_text(None, None, ("a",), (value,))


def test_value_of_another_pass_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        pipeline_text(None, None, ("fold-constants",), ("fold-constant.a=1",))
    assert caught.value.hint == "did you mean `fold-constants`?"


def test_unreadable_file(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        pipeline_text(None, tmp_path / "none", (), ())
