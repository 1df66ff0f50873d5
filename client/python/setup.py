"""Builds the native part of the package; what is fixed stands in pyproject.toml."""
import pathlib
import sys

from setuptools import setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import native_build  # noqa: E402 (beside this file, which isolated builds do not look at)


class BuildNative(build_ext):
    """libkveik first: its archives are what the extension is linked with."""

    def build_extensions(self):
        for extension in self.extensions:
            native_build.link(extension)
        super().build_extensions()


setup(
    version=native_build.version(),
    license="Apache-2.0",  # in pyproject.toml its form depends on the year
    cffi_modules=["native_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp310"}, **native_build.folders()},
)
