"""What a device must have to run a model."""

import pytest

from graphopt.deploy.agreement import architecture, check_device
from graphopt.deploy.contract import contract_faults, device_contract, minimum_onnxruntime
from graphopt.deploy.integrity import Broken
from graphopt.ir import from_text
from graphopt.targets import DeviceProfile

HERE = "1.40.1"


def model(opset=17, ir_version=8, imports="", body="y = Relu(x)"):
    text = f"""
        <ir_version: {ir_version}, opset_import: ["" : {opset}{imports}]>
        g (float[2, 2] x) => (float[2, 2] y) {{ {body} }}
    """
    return from_text(text)


@pytest.mark.parametrize(
    ("opset", "ir_version", "expected"),
    [
        (13, 7, "1.16"),
        (19, 9, "1.16"),
        (20, 9, "1.17"),
        (21, 10, "1.18"),
        (22, 10, "1.21"),
        (23, 11, "1.23"),
        (17, 10, "1.18"),
        (24, 12, "1.24"),
    ],
)
def test_opset_and_ir_version_set_the_oldest_runtime(opset, ir_version, expected):
    assert minimum_onnxruntime(model(opset, ir_version), DeviceProfile(), HERE) == expected


def test_what_nobody_knows_needs_the_runtime_that_ran_it():
    unknown = model(99, 99)
    assert minimum_onnxruntime(unknown, DeviceProfile(), HERE) == HERE
    custom = model(imports=', "org.example" : 1', body="y = org.example.Magic(x)")
    assert minimum_onnxruntime(custom, DeviceProfile(), HERE) == HERE


@pytest.mark.parametrize(
    ("operator", "expected"),
    [("FastGelu", "1.16"), ("GatherBlockQuantized", "1.20"), ("BrandNew", HERE)],
)
def test_contrib_operators(operator, expected):
    contrib = model(imports=', "com.microsoft" : 1', body=f"y = com.microsoft.{operator}(x)")
    assert minimum_onnxruntime(contrib, DeviceProfile(), HERE) == expected


def test_the_target_may_ask_for_more_and_never_for_less():
    assert (
        minimum_onnxruntime(model(), DeviceProfile(minimum_onnxruntime="1.22.1"), HERE) == "1.22.1"
    )
    assert (
        minimum_onnxruntime(model(21, 10), DeviceProfile(minimum_onnxruntime="1.5"), HERE) == "1.18"
    )


def test_a_runtime_older_than_the_table_says_vouches_for_itself():
    assert minimum_onnxruntime(model(27, 14), DeviceProfile(), "1.28.0") == "1.28.0"


def test_operators_of_subgraphs_and_functions_count():
    text = """
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2] x, bool c) => (float[2] y) {
          z = local.Twice(x)
          y = If(c) <then_branch = yes () => (float[2] a) { a = Exp(z) },
                     else_branch = no () => (float[2] b) { b = Neg(z) }>
        }
        <opset_import: ["" : 17], domain: "local">
        Twice (v) => (w) { w = Add(v, v) }
    """
    contract = device_contract(
        from_text(text), DeviceProfile(features=("b", "a")), verified_runtime=HERE
    )
    assert contract["operators"] == {"": ["Add", "Exp", "If", "Neg"]}
    assert contract["cpu_features"] == ["a", "b"]
    assert contract["opsets"] == {"": 17, "local": 1}


def faults(body="y = Relu(x)", opset=17, ir_version=8, imports="", **device):
    return contract_faults(model(opset, ir_version, imports, body), DeviceProfile(**device))


def test_a_model_within_all_limits_has_no_faults():
    assert faults(maximum_onnxruntime="1.16", static_shapes=True, maximum_opset=17) == []
    assert faults(opset=99, ir_version=99) == []  # what is not limited is not looked at


def test_a_newer_opset_is_named_with_the_operators_that_need_it():
    (found,) = faults("y = Gelu(x)", opset=20, maximum_onnxruntime="1.16")
    assert "opset 20, for `Gelu`, and the device ends at 19" in found
    assert "lower-opset" in found
    (found,) = faults("y = Gelu(x)", opset=20, maximum_opset=18)
    assert "ends at 18" in found


def test_a_newer_ir_version_is_a_fault():
    (found,) = faults(ir_version=10, maximum_ir_version=9)
    assert "IR version 10, and the device ends at 9" in found


@pytest.mark.parametrize(
    ("operator", "release", "why"),
    [
        ("FastGelu", "1.16", None),
        ("GatherBlockQuantized", "1.20", None),
        ("GatherBlockQuantized", "1.19", "came with 1.20"),
        ("BrandNew", "1.20", "may be newer"),
    ],
)
def test_operators_that_the_release_lacks(operator, release, why):
    imports, body = ', "com.microsoft" : 1', f"y = com.microsoft.{operator}(x)"
    found = faults(body, imports=imports, maximum_onnxruntime=release)
    assert [why in one for one in found] == ([True] if why else [])


def test_open_sizes_are_faults_where_the_device_takes_none():
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }'
    (found,) = contract_faults(from_text(text), DeviceProfile(static_shapes=True))
    assert "`x`" in found
    assert "--dims" in found
    assert contract_faults(from_text(text), DeviceProfile()) == []


class Backend:
    def runtime_version(self):
        return "1.40"

    def providers(self):
        return ["CPUExecutionProvider"]

    def cpu_features(self):
        return None


def manifest(architectures):
    return {
        "device": {
            "minimum_onnxruntime": "1.16",
            "cpu_features": [],
            **({} if architectures is None else {"architectures": architectures}),
        },
        "session": {"providers": [{"name": "CPUExecutionProvider", "options": {}}], "config": {}},
        "files": {},
    }


def test_a_bundle_for_another_processor_is_refused_before_anything_is_loaded():
    with pytest.raises(Broken, match="it is for sparc, this machine is"):
        check_device(manifest(["sparc"]), Backend())
    for fitting in (None, [], ["sparc", architecture()]):
        assert "onnxruntime 1.40" in check_device(manifest(fitting), Backend())
