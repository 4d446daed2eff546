"""A phone at the end of a cable: edgegen's app there measures a bundle, and its rows are fetched, all by `adb`.

Nothing is installed. The bundle goes into the inbox of the app (android_app/), which imports it by its sha256 and
measures it in a process of its own; meanwhile a status file tells how far it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgegen.apps.android import ANDROID, PACKAGE
from edgegen.apps.project import check_bundles, copy_bundle, folder_name
from edgegen.bench.imported import read_rows
from edgegen.bundle import Bundle
from edgegen.errors import EdgegenError, InputError, shortened
from edgegen.target import Device

SHARED = f"/sdcard/Android/data/{PACKAGE}/files"
RECORD, STATUS, INBOX = f"{SHARED}/measurements.jsonl", f"{SHARED}/bench-status.json", f"{SHARED}/inbox"
SERIAL = "ANDROID_SERIAL"  # adb's own environment variable for one of several phones
RESERVE = 64 * 2**20  # bytes that a phone keeps beside two copies of the bundle, pushed and imported

Report = Callable[[str], None]


@dataclass(frozen=True)
class Patience:
    """Seconds: between two looks at the status, of a bench, of an ordinary command and of a push."""

    poll: float = 1.0
    bench: float = 1800.0
    command: float = 30.0
    push: float = 600.0


def measure_phone(
    device: Device, bundles: Sequence[Bundle], report: Report = lambda line: None, patience: Patience = Patience()
) -> list[dict[str, Any]]:
    """The rows of every back end and part of the bundles, measured on the connected phone of this model.

    No adb, no phone or several, another model, an app that is not installed, a full phone, a phone that is unplugged
    and a bench that fails are each an error of one line.
    """
    check_bundles(ANDROID, bundles)
    phone = Phone(one_phone(patience), patience)
    phone.check(device)
    return [row for bundle in bundles for row in phone.measure(bundle, report)]


def one_phone(patience: Patience) -> str:
    """The serial number of the connected phone, or of the one that ANDROID_SERIAL names."""
    lines = adb(["devices"], patience.command).splitlines()[1:]
    found = dict(line.split("\t")[:2] for line in lines if "\t" in line)
    asked = os.environ.get(SERIAL, "")
    chosen = [serial for serial in found if asked in ("", serial)]
    if not chosen:
        what = f"phone {asked} is not connected" if asked else "no phone is connected"
        raise InputError(f"{what}.", "Plug it in and turn on USB debugging; `adb devices` must list it.")
    if len(chosen) > 1:
        raise InputError(f"{len(chosen)} phones are connected: {', '.join(chosen)}.",
                         f"Unplug all but one, or set {SERIAL} to one of them.")  # fmt: skip
    if found[chosen[0]] != "device":
        raise InputError(f"phone {chosen[0]} is {found[chosen[0]]}.", "Unlock it and allow this computer to debug it.")
    return chosen[0]


def adb(words: Sequence[str], seconds: float) -> str:
    """What adb prints; what it complains of is an EdgegenError."""
    program = shutil.which("adb")
    if program is None:
        raise InputError("adb is not in the path.", "Install Android's platform tools.")
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=seconds, errors="replace")
    except subprocess.TimeoutExpired:
        raise EdgegenError(
            f"adb {words[-1]} took more than {seconds:g} s.", "Unlock the phone and try again."
        ) from None
    if done.returncode:
        raise failure(done.stderr or done.stdout)
    return done.stdout


def failure(told: str) -> EdgegenError:
    """The error behind adb's last word."""
    last = shortened((told.strip().splitlines() or ["no word"])[-1].removeprefix("adb: "), 160)
    if "No space left" in told:
        return InputError("the phone is full.", "Free some space on it.")
    if "not found" in last and "device" in last or "no devices" in last or "device offline" in last:
        return EdgegenError("the phone is no longer connected.", "Plug it in again and repeat.")
    return EdgegenError(f"adb failed: {last}.")


class Phone:
    """One connected phone with the app."""

    def __init__(self, serial: str, patience: Patience):
        self.serial, self.patience = serial, patience

    def adb(self, *words: str, seconds: float | None = None) -> str:
        return adb(["-s", self.serial, *words], seconds or self.patience.command)

    def check(self, device: Device) -> None:
        """Refuses a phone of another model, and one without the app."""
        model = self.adb("shell", "getprop ro.product.model").strip()
        if device.title.casefold() not in model.casefold():
            raise InputError(f"the connected phone is a {model or 'phone without a model'}, not a {device.title}.",
                             "Name its own --device, or plug in the other one.")  # fmt: skip
        if "package:" not in self.adb("shell", f"pm path {PACKAGE} || true"):
            raise InputError(f"the app {PACKAGE} is not installed on the {device.title}.",
                             "Write it with edgegen app android, and run it once from Android Studio.")  # fmt: skip

    def measure(self, bundle: Bundle, report: Report) -> list[dict[str, Any]]:
        """Pushes a bundle, lets the app measure it, and fetches the new rows."""
        before = self.rows()
        report(f"pushing {bundle.root}")
        name = self.push(bundle)
        self.adb("shell", f"rm -f {STATUS}")
        told = self.adb("shell", f"am start -W -n {PACKAGE}/.BenchActivity --es bundle {name}")
        if "Error" in told or "Exception" in told:
            raise EdgegenError(f"the app does not start: {shortened(told.strip().splitlines()[-1], 160)}.",
                               "Install the app that this edgegen writes.")  # fmt: skip
        self.wait(report)
        new = self.rows()[len(before) :]
        if not new:
            raise EdgegenError("the app measured nothing.", "Look at it on the phone.")
        return new

    def push(self, bundle: Bundle) -> str:
        """Puts what the app can run of a bundle into its inbox; returns the folder's name there."""
        name = folder_name(bundle)
        with tempfile.TemporaryDirectory() as folder:
            copy_bundle(ANDROID, bundle, Path(folder) / name)
            needed = 2 * sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) + RESERVE
            self.require_space(needed)
            self.adb("shell", f"mkdir -p {INBOX} && rm -rf {INBOX}/{name}")
            self.adb("push", str(Path(folder) / name), f"{INBOX}/", seconds=self.patience.push)
        return name

    def require_space(self, needed: int) -> None:
        """Refuses a phone that has no room for the bundle, where it tells how much it has."""
        fields = self.adb("shell", "df -k /sdcard").strip().splitlines()[-1].split()
        if len(fields) > 3 and fields[3].isdigit() and int(fields[3]) * 1024 < needed:
            raise InputError(f"the phone is full: {int(fields[3]) * 1024 / 1e6:.0f} MB are free, the bundle takes "
                             f"{needed / 1e6:.0f} MB while it is measured.", "Free some space on it.")  # fmt: skip

    def wait(self, report: Report) -> None:
        """Follows the status until the bench is done; one that failed, or tells nothing for too long, is an error."""
        end = time.monotonic() + self.patience.bench
        last = ""
        while time.monotonic() < end:
            status = self.status()
            if status.get("state") == "failed":
                raise EdgegenError(f"the bench failed on the phone: {shortened(str(status.get('message')), 300)}")
            if status.get("state") == "done":
                return
            if (line := f"measuring {status.get('part')} on the phone") != last and status.get("part"):
                report(line)
                last = line
            time.sleep(self.patience.poll)
        raise EdgegenError(f"the bench took more than {self.patience.bench:g} s.", "Look at the app on the phone.")

    def status(self) -> dict[str, Any]:
        """What the app tells of its bench; nothing yet is an empty one."""
        try:
            told = json.loads(self.adb("shell", f"cat {STATUS} 2>/dev/null || true") or "{}")
        except ValueError:
            return {}
        return told if isinstance(told, dict) else {}

    def rows(self) -> list[dict[str, Any]]:
        """The rows that the app has recorded so far."""
        if "yes" not in self.adb("shell", f"test -s {RECORD} && echo yes || true"):
            return []
        with tempfile.TemporaryDirectory() as folder:
            self.adb("pull", RECORD, f"{folder}/measurements.jsonl", seconds=self.patience.push)
            return read_rows(Path(folder) / "measurements.jsonl")
