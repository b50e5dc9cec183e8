"""Debian packages: what is in them, what they depend on, and whether systemd can read their units.

tests/debian.sh installs them on a bare Debian; here they are made and looked at. Needs dpkg-shlibdeps (dpkg-dev).
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

SKIP = 77


def output(*command, **kwargs):
    return subprocess.run(list(map(str, command)), check=True, text=True, stdout=subprocess.PIPE, **kwargs).stdout


def fields(package):
    text = output("dpkg-deb", "--field", package)
    return dict(re.findall(r"^(\S+): (.*)$", text, re.MULTILINE))


def paths(package):
    rows = [row.split() for row in output("dpkg-deb", "--contents", package).splitlines()]
    for row in rows:
        assert row[1] == "root/root", f"{package}: {row[5]} is {row[1]}'s"
    return {row[5].lstrip("."): row[0] for row in rows if not row[5].endswith("/")}


def check_units(folder, binaries):
    """systemd-analyze verify, with the programs where they were built."""
    if shutil.which("systemd-analyze") is None:
        print("units: not verified, there is no systemd-analyze here")
        return
    for unit in sorted(folder.glob("*.service")):
        text = unit.read_text().replace("/usr/bin/quantfl", f"{binaries}/quantfl")
        with tempfile.TemporaryDirectory() as work:
            copy = pathlib.Path(work) / unit.name
            copy.write_text(text)
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], text=True, capture_output=True)
            mine = [line for line in done.stderr.splitlines() if "quantfl" in line]
            assert done.returncode == 0 and not mine, f"{unit}: {done.stderr}"
        for line in ("Type=notify", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict"):
            assert f"\n{line}\n" in text, f"{unit}: no {line}"
        assert re.search(r"^User=quantfl-\w+$", text, re.MULTILINE), unit


def check_policy(packages):
    """What Debian's own checker calls an error, but for the address, which is for who gives packages out to set."""
    if shutil.which("lintian") is None:
        print("packages: not checked against Debian's policy, there is no lintian here")
        return
    address = "bogus-mail-host,bogus-mail-host-in-debian-changelog,root-in-contact"
    done = subprocess.run(["lintian", "--fail-on", "error", "--suppress-tags", address, *packages], text=True, capture_output=True)
    assert done.returncode == 0, f"lintian: {done.stdout}{done.stderr}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    check_units(arguments.source / "deploy/systemd", arguments.build / "bin")
    # The configurations that the packages bring are ones that their programs take.
    for program, file in (("coordinator", "demo.toml"), ("client", "client.toml")):
        output(arguments.build / f"bin/quantfl-{program}", "--config", arguments.source / "deploy/systemd" / file,
               "--print-config")
    if shutil.which("dpkg-shlibdeps") is None:
        print("skipped: there is no dpkg-shlibdeps here (apt-get install dpkg-dev)")
        return SKIP
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["cpack", "--config", arguments.build / "CPackConfig.cmake", "-B", work], check=True,
                       stdout=subprocess.DEVNULL, cwd=arguments.build)
        packages = {p.name.split("_")[0]: p for p in pathlib.Path(work).glob("*.deb")}
        assert sorted(packages) == ["quantfl-client", "quantfl-coordinator", "quantfl-tools"], packages
        found = {name: (fields(p), paths(p)) for name, p in packages.items()}
        conffiles = {name: output("dpkg-deb", "--info", p, "conffiles").split() for name, p in packages.items()
                     if name != "quantfl-tools"}
        check_policy(packages.values())
        control = {name: set(output("dpkg-deb", "--info", p).split()) for name, p in packages.items()}
    for name, (about, _) in found.items():
        assert "libgrpc++" in about["Depends"] or name == "quantfl-tools", f"{name} depends on {about['Depends']}"
        assert about["Version"].count(".") == 2, about
        assert len(about["Description"]) > 10, about
    assert "torch" not in found["quantfl-coordinator"][0]["Depends"]
    assert "torch" not in found["quantfl-tools"][0]["Depends"]
    assert "libtorch" in found["quantfl-client"][0]["Depends"]
    expected = {
        "quantfl-coordinator": {"/usr/bin/quantfl-coordinator", "/etc/quantfl/runs/demo.toml",
                                "/usr/lib/systemd/system/quantfl-coordinator@.service",
                                "/usr/share/quantfl/pretrained/lenet5-mnist.safetensors",
                                "/usr/share/quantfl/pretrained/README.md"},
        "quantfl-client": {"/usr/bin/quantfl-client", "/usr/bin/quantfl-model", "/etc/quantfl/client.toml",
                           "/usr/lib/systemd/system/quantfl-client.service"},
        "quantfl-tools": {"/usr/bin/quantflctl"},
    }
    for name, wanted in expected.items():
        wanted |= {f"/usr/share/doc/{name}/copyright", f"/usr/share/doc/{name}/changelog.gz"}
        assert set(found[name][1]) == wanted, f"{name}: {sorted(set(found[name][1]) ^ wanted)}"
    for name in ("quantfl-coordinator", "quantfl-client"):
        assert {"conffiles", "postinst", "prerm", "postrm"} <= control[name], control[name]
    # A configuration that is no conffile goes with an upgrade or a removal.
    for name, files in conffiles.items():
        expected_files = [path for path in found[name][1] if path.startswith("/etc/")]
        assert files == expected_files and files, f"{name}: conffiles {files}, in /etc {expected_files}"
    print("packages:", ", ".join(f"{name} {about['Version']}" for name, (about, _) in sorted(found.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
