"""pyrunc explain, as it is called: paths, IDs, exit statuses, JSON."""

import json


def test_a_bundle_its_file_and_its_container(container):
    c = container(noNewPrivileges=True).up()
    by_path = c.runtime("explain", c.bundle.path).out
    assert "user root: it is the host's root, too" in by_path
    assert c.runtime("explain", c.bundle.path / "config.json").out.splitlines()[1:] == by_path.splitlines()[1:]
    by_id = c.runtime("explain", c.id).out
    assert by_id.splitlines()[1:4] == by_path.splitlines()[1:4]
    assert f"its first process, {c.pid}, has user 0 and the capabilities CAP_KILL" in by_id
    assert "no_new_privs is set" in by_id


def test_exit_status_and_json(container):
    c = container()
    c.bundle.write()
    assert c.runtime("explain", c.bundle.path, "--json").code == 0
    result = c.runtime("explain", "--json", "--fail-on", "high", c.bundle.path, check=False)
    document = json.loads(result.out)
    assert (result.code, document["worst"]) == (2, "critical")  # no readonlyPaths
    assert document["granted"][0]["pointer"] == "/linux/readonlyPaths"
    assert c.runtime("explain", "--fail-on", "high", "--compare", c.bundle.path, c.bundle.path).code == 0
    other = c.bundle.path / "other.json"
    other.write_text(json.dumps({**c.config, "linux": {"namespaces": [{"type": "mount"}]}}))
    result = c.runtime("explain", "--fail-on", "high", "--json", "--compare", c.bundle.path, other, check=False)
    assert result.code == 2
    assert {"pid", "network"} <= {each["subject"] for each in json.loads(result.out)["more"]}


def test_what_can_not_be_explained(container):
    c = container()
    assert c.runtime("explain", "nobody", check=False).err == 'pyrunc: container "nobody": container does not exist\n'
    c.bundle.write()
    result = c.runtime("explain", "config.json", check=False, cwd=c.bundle.path)
    assert result.err.endswith("container does not exist; for the path write ./config.json\n")
    assert "no such file" in c.runtime("explain", "/nowhere/x", check=False).err
    assert "is no level" in c.runtime("explain", "--fail-on", "dire", ".", check=False).err
