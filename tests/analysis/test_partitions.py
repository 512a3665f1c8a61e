"""Cutting a graph between an accelerator and a host."""

from graphopt.analysis.partitions import cut
from graphopt.ir import from_text


def cut_of(body, on_host="Sin", signature="(float[N] x) => (float[N] y)", joins=()):
    model = from_text(f"{signature} {{ {body} }}")
    return cut(
        model.graph, lambda node: node.op_type not in on_host, lambda node: node.op_type in joins
    )


def sizes(found):
    return (found.partitions, found.copies, len(found.inside), len(found.outside))


def test_all_on_one_side():
    assert sizes(cut_of("a = Exp(x) y = Neg(a)")) == (1, 0, 2, 0)
    assert sizes(cut_of("a = Sin(x) y = Sin(a)")) == (0, 0, 0, 2)


def test_a_node_on_the_host_in_the_middle_cuts_in_two_and_copies_twice():
    assert sizes(cut_of("a = Exp(x) b = Sin(a) y = Neg(b)")) == (2, 2, 2, 1)


def test_a_node_on_the_host_beside_does_not_cut():
    # Exp and Neg still run at once: the Sin between x and the sum is ready before.
    found = cut_of("s = Sin(x) a = Exp(x) b = Neg(a) y = Add(b, s)")
    assert found.partitions == 2  # the sum has to wait for the host
    found = cut_of(
        "a = Exp(x) s = Sin(a) b = Neg(a) z = Neg(b)",
        signature="(float[N] x) => (float[N] s, float[N] z)",
    )
    assert sizes(found) == (1, 1, 3, 1)


def test_no_path_leads_out_of_a_partition_and_back():
    # b may not join a's partition: through the Sin it would wait for itself.
    found = cut_of("a = Exp(x) s = Sin(a) b = Add(a, s) y = Neg(b)")
    assert found.partitions == 2


def test_a_value_with_two_readers_on_the_other_side_is_copied_once():
    found = cut_of("a = Exp(x) s = Sin(a) t = Sin(a) y = Add(s, t)")
    assert found.copies == 3


def test_quantizers_go_with_their_operators():
    body = (
        "s = Constant<value_float = 1.0>() z = Constant<value_ints = [0]>() "
        "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) a = Sin(d) "
        "r = QuantizeLinear(a, s) e = DequantizeLinear(r, s) y = Exp(e)"
    )
    found = cut_of(body)
    outside = [node.op_type for node in found.outside]
    assert outside == ["QuantizeLinear", "DequantizeLinear", "Sin", "QuantizeLinear"]


def test_an_activation_joins_the_layer_that_only_it_reads():
    body = "a = Exp(x) y = Sin(a)"
    assert cut_of(body, joins=("Sin",)).outside == []
    both = "a = Exp(x) y = Sin(a) z = Neg(a)"
    found = cut_of(both, joins=("Sin",), signature="(float[N] x) => (float[N] y, float[N] z)")
    assert [node.op_type for node in found.outside] == ["Sin"]


def test_what_is_constant_is_left_out():
    text = "(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Sin(w) y = Add(x, a) }"
    found = cut(from_text(text).graph, lambda node: node.op_type == "Add")
    assert sizes(found) == (1, 0, 1, 0)
