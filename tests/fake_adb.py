"""A phone that does not exist: the program `adb` for tests, whose state is the folder FAKE_PHONE.

state.json says what it is: {"serials": {serial: state}, "model", "installed", "free_kb", "bench": "done"|"failed"|...,
"rows": lines that a bench appends}. Files of the phone lie below files/; every command is noted in log.
"""

import json
import os
import shutil
import sys
from pathlib import Path

HOME = Path(os.environ["FAKE_PHONE"])
STATE = json.loads((HOME / "state.json").read_text())
PREFIX = "/sdcard/Android/data/org.edgegen.app/files"


def there(path: str) -> Path:
    return HOME / "files" / path.removeprefix(PREFIX).strip("/")


def fail(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(1)


def push(source: str, target: str) -> None:
    if STATE.get("push") == "full":
        fail("adb: error: failed to copy: remote write failed: No space left on device")
    shutil.copytree(source, there(target) / Path(source).name)


def bench(name: str) -> None:
    """What the app would do; the status is what the test asks for."""
    status = {"state": STATE["bench"], "part": "transformer, onnx", "message": "onnx/decoder.onnx has changed."}
    there("bench-status.json").write_text(json.dumps(status))
    if STATE["bench"] == "done" and (there("inbox") / name / "manifest.json").is_file():
        with there("measurements.jsonl").open("a") as file:
            file.writelines(line + "\n" for line in STATE["rows"])


def shell(line: str) -> None:
    words = line.split()
    if line.startswith("getprop"):
        print(STATE["model"])
    elif line.startswith("pm path"):
        print("package:/data/app/base.apk" if STATE["installed"] else "")
    elif line.startswith("df"):
        print("Filesystem 1K-blocks Used Available Use% Mounted on")
        print(f"/dev/fuse 100000000 1 {STATE['free_kb']} 1% /storage/emulated")
    elif line.startswith("mkdir"):
        there("inbox").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(there(words[-1]), ignore_errors=True)
    elif line.startswith("rm -f"):
        there(words[-1]).unlink(missing_ok=True)
    elif line.startswith("am start"):
        if STATE["bench"] == "no activity":
            print("Error type 3\nError: Activity class {org.edgegen.app/.BenchActivity} does not exist.")
        elif STATE["bench"] == "unplugged":
            STATE["serials"] = {}
            (HOME / "state.json").write_text(json.dumps(STATE))
        else:
            bench(words[-1])
    elif line.startswith("cat"):
        path = there(words[1])
        print(path.read_text() if path.exists() else "", end="")
    elif line.startswith("test -s"):
        path = there(words[2])
        print("yes" if path.exists() and path.stat().st_size else "")
    else:
        fail(f"no such command: {line}")


def main() -> None:
    words = sys.argv[1:]
    with (HOME / "log").open("a") as log:
        print(*words, file=log)
    if words == ["devices"]:
        print("List of devices attached", *(f"{s}\t{state}" for s, state in STATE["serials"].items()), "", sep="\n")
        return
    assert words[0] == "-s"
    if words[1] not in STATE["serials"]:
        fail(f"adb: device '{words[1]}' not found")
    command, rest = words[2], words[3:]
    if command == "shell":
        shell(rest[0])
    elif command == "push":
        push(*rest)
    elif command == "pull":
        shutil.copyfile(there(rest[0]), rest[1])
    else:
        fail(f"no such command: {command}")


main()
