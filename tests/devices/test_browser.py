"""The page of a bundle in a browser, with onnxruntime-web; and what pages must keep to be read."""

import struct

import pytest
from device_bundles import rewrite
from minisign_keys import write_keys

from graphopt.deploy import validate
from graphopt.deploy.signing import sign


@pytest.fixture
def page(browser, device, serve, tmp_path):
    """Open the page of a bundle, and return what the check reports."""

    def check(folder, query=""):
        site = tmp_path / "site"
        if not site.is_dir():
            site.mkdir()
            (site / "bundle").symlink_to(folder)
            (site / "ort").symlink_to(device("node") / "node_modules/onnxruntime-web/dist")
        address = f"{serve(site)}/bundle/validate.html?ort=/ort{query}"
        browser.open(address)
        # Until the new page is there, scripts run in the one before.
        browser.wait_for(f"location.href === '{address}' && globalThis.report !== undefined")
        return browser.run("globalThis.report")

    return check


def png_size(picture):
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", picture[16:24])


def test_a_good_bundle_is_ok_in_webassembly(page, browser, bundle):
    report, ours = page(bundle), validate(bundle).to_dict()
    assert report["status"] == "ok", report
    assert report["manifest_sha256"] == ours["manifest_sha256"]
    assert [item["name"] for item in report["checks"]] == [item["name"] for item in ours["checks"]]
    assert report["outputs"]["label"] == ours["outputs"]["label"]
    assert report["outputs"]["y"]["original"] == pytest.approx(
        ours["outputs"]["y"]["original"], abs=1e-6
    )
    assert browser.run("document.title") == "ok: bundle check"
    assert "everything holds" in browser.run("document.getElementById('verdict').textContent")


@pytest.mark.parametrize("width", [400, 1400])
def test_the_verdict_is_in_the_picture(page, browser, bundle, width, tmp_path):
    browser.size(width)
    page(bundle)
    rectangle = "document.getElementById('verdict').getBoundingClientRect().toJSON()"
    browser.wait_for(f"{rectangle}.top > 0")  # it is laid out
    assert browser.run(rectangle)["bottom"] < 900
    assert browser.run("document.documentElement.scrollWidth") <= width
    picture = browser.screenshot()
    assert png_size(picture)[0] == width
    blank = len(picture) < 3000  # one colour shrinks to nothing
    assert not blank


def test_a_changed_file_is_refused(page, browser, copy):
    content = bytearray((copy / "model.onnx").read_bytes())
    content[50] ^= 1
    (copy / "model.onnx").write_bytes(content)
    report = page(copy)
    assert (report["status"], report["checks"][-1]["name"]) == ("broken", "files")
    assert "`model.onnx` was changed" in browser.run("document.body.textContent")


def test_a_file_without_end_is_not_read_to_the_end(page, copy):
    (copy / "report.html").write_bytes(bytes(1 << 20))
    report = page(copy)
    assert "is larger than it may be" in report["checks"][-1]["detail"]


def test_wrong_numbers_are_wrong(page, copy):
    rewrite(copy, lambda manifest: manifest["golden"]["outputs"].update())
    (copy / "golden/model/0.npz").write_bytes((copy / "golden/model/1.npz").read_bytes())
    rewrite(copy, rehash=["golden/model/0.npz"])
    report = page(copy)
    assert (report["status"], report["exit_code"]) == ("wrong", 1)


def test_another_server_is_not_asked(browser, serve, bundle):
    address = f"{serve(bundle)}/validate.html?ort=https://example.org/x"
    browser.open(address)
    report = browser.wait_for(f"location.href === '{address}' && globalThis.report")
    assert report["error"] == "ort must lie on this server"


def test_every_variant_is_run(page, variants):
    report, ours = page(variants), validate(variants).to_dict()
    assert report["status"] == "ok", report
    numbers = next(item["detail"] for item in report["checks"] if item["name"] == "numbers")
    assert numbers.endswith("; 1 more variants agree with theirs")
    assert report["outputs"].keys() == ours["outputs"].keys()


def test_signatures(page, browser, copy, tmp_path):
    secret, public = write_keys(tmp_path / "keys")
    sign(copy, secret, "version 1.2")
    key = public.read_text()
    seen = "document.getElementById('signature').textContent"
    report = page(copy)
    assert report["status"] == "ok", report
    assert browser.run(seen).startswith("Signature: there is one, not checked here")
    report = page(copy, f"&key={key.splitlines()[1]}")
    assert report["checks"][0] == validate(copy, public_key=key).checks[0]
    assert (report["status"], report["checks"][0]["status"]) == ("ok", "passed")
    assert "version 1.2" in browser.run(seen)
    other = write_keys(tmp_path / "other", seed=8)[1].read_text()
    report = page(copy, f"&key={other.splitlines()[1]}")
    assert (report["exit_code"], len(report["checks"])) == (2, 1)
    assert report["checks"] == validate(copy, public_key=other).checks
    assert "does not fit the manifest" in browser.run(seen)
