import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import PipelineSyntaxError
from graphopt.pipeline.syntax import GroupText, NamedText, PassText, parse_text
from graphopt.rewrite import format_value

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z]{1,5}){0,2}", fullmatch=True).filter(
    lambda name: name != "fixpoint"
)
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=12)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
OPTIONS = st.dictionaries(KEYS, VALUES, max_size=3).map(lambda table: tuple(table.items()))


@given(NAMES, OPTIONS)
def test_written_options_are_read_back(name, options):
    text = f"{name}{{{' '.join(f'{key}={format_value(value)}' for key, value in options)}}}"
    (element,) = parse_text(text)
    assert (element.name, element.options) == (name, options)
    # 1 == True == 1.0: the types count too.
    assert [type(value) for _, value in element.options] == [type(value) for _, value in options]


def caret(text):
    try:
        parse_text(text)
    except PipelineSyntaxError as error:
        return error.position / max(1, len(error.text))
    return 0.0


@given(st.text(max_size=40) | st.text('ab=,{}()[]@"\\ 1.-#', max_size=40))
def test_any_text_is_parsed_or_refused_with_a_caret_inside(text):
    assert 0.0 <= caret(text) <= 1.0


def test_grammar():
    text = """
        first, # a comment, ends here
        fixpoint{max=3}(second{a=1 b=-2.5e3 c=[x,"y z",[]]}, fixpoint(third)),
        @exact
    """
    first, group, named = parse_text(text)
    assert isinstance(first, PassText)
    assert first.name == "first"
    assert isinstance(group, GroupText)
    assert group.options == (("max", 3),)
    second, inner = group.elements
    assert second.options == (("a", 1), ("b", -2500.0), ("c", ("x", "y z", ())))
    assert inner.elements[0].name == "third"
    assert named == NamedText("exact", text.index("@"))


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 0, "the name of a pass"),
        ("a,", 2, "the name of a pass"),
        ("a b", 2, "`,` or the end"),
        ("a)", 1, "`,` or the end"),
        ("@", 1, "the name of a named pipeline"),
        ("fixpoint", 8, "`(` and the passes"),
        ("fixpoint(a", 10, "`,` or `)`"),
        ("fixpoint()", 9, "the name of a pass"),
        ("a{b}", 3, "`=` and the value of `b`"),
        ("a{b=}", 4, "a number"),
        ("a{b=1", 5, "`}`"),
        ("a{b=1,c=2}", 5, "a space and the next option"),
        ("a{b=1 b=2}", 6, "each option once"),
        ("a{b=[1,}", 7, "a number"),
        ("a{b=[1}", 6, "`,` or `]`"),
        ('a{b="x', 4, "a closing quote"),
        ('a{b="\\q"}', 5, "a string as JSON writes it"),
        ("a{b=8bit}", 4, "a number"),
        ("a{3=1}", 2, "an option"),
    ],
)
def test_caret_stands_under_what_does_not_fit(text, position, expected):
    with pytest.raises(PipelineSyntaxError) as caught:
        parse_text(text)
    assert caught.value.position == position
    assert f"expected {expected}" in caught.value.why
    assert caught.value.why.endswith(f"{text}\n    {' ' * position}^")


def test_caret_of_many_lines_shows_the_line_alone():
    with pytest.raises(PipelineSyntaxError) as caught:
        parse_text("first,\n  second{a=},\n  third")
    assert caught.value.why.endswith("\n      second{a=},\n               ^")


@pytest.mark.parametrize(
    "text",
    [
        "prune-headsratio=0.5 prune-headsscope=all",  # prune-heads{ratio=0.5,scope=all}
        "pa=1 p2",  # p{a=1,2}
        "first,pa=1 first,p2",
        "p{a=1",  # p{a=1 b=2}, cut at the space
    ],
)
def test_what_a_shell_makes_of_braces_is_recognised(text):
    with pytest.raises(PipelineSyntaxError) as caught:
        parse_text(text)
    assert "quote the pipeline" in caught.value.hint


def test_only_mangled_text_is_called_mangled():
    with pytest.raises(PipelineSyntaxError) as caught:
        parse_text("a b")
    assert caught.value.hint is None


@pytest.mark.parametrize("text", ["fixpoint(" * 5000, "p{a=" + "[" * 5000])
def test_what_is_nested_too_deeply_is_refused_with_a_caret(text):
    with pytest.raises(PipelineSyntaxError, match="at most 32"):
        parse_text(text)


def test_nesting_side_by_side_is_not_deep():
    assert len(parse_text(",".join(["fixpoint(a{b=[[1]]})"] * 100))) == 100
