"""kveik._native: libkveik as cffi sees it.

The declarations are those of kveik.h, taken from it at build time: there is no second list to keep
right. In a checkout libkveik is built from it and linked in, so that a wheel needs nothing but
system libraries; with KVEIK_SYSTEM=1, and outside of a checkout, the installed one is used.
"""
import fcntl
import os
import pathlib
import re
import shutil
import subprocess

from cffi import FFI

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "python"
ARCHIVES = ["libkveik_static.a", "libkveik_proto.a", "libkveik_proto_generated.a",
            "libkveik_base.a"]
LIBRARIES = ["libprotobuf-c", "libcrypto", "yaml-0.1"]  # yaml: the linker leaves it out again
PACKAGES = "deploy/install-packages build python"


def in_checkout():
    return (ROOT / "client/include/kveik/kveik.h").exists() and (ROOT / "CMakeLists.txt").exists()


def from_checkout():
    """Whether libkveik is built here, or the installed one taken."""
    return in_checkout() and not os.environ.get("KVEIK_SYSTEM")


def stop(problem, help_text):
    raise SystemExit(f"\nkveik: {problem}\n  {help_text}\n")


# ---- what setup() is told ------------------------------------------------------------------------
def version():
    """The version of the tree, or what an unpacked source archive says of itself."""
    for path, pattern in ((ROOT / "CMakeLists.txt", r"project\(kveik VERSION ([\d.]+)"),
                          (HERE / "PKG-INFO", r"^Version: (.*)$")):
        found = re.search(pattern, path.read_text(), re.M) if path.exists() else None
        if found:
            return found.group(1)
    return stop("the version is not known", "build from a checkout or from a source archive")


def folders():
    """In a checkout all that is built goes to its build folder, none of it between the sources."""
    if not (in_checkout() and os.access(BUILD.parent if BUILD.parent.exists() else ROOT, os.W_OK)):
        return {}
    BUILD.mkdir(parents=True, exist_ok=True)
    return {"build": {"build_base": str(BUILD / "setuptools")},
            "egg_info": {"egg_base": str(BUILD)}}


# ---- declarations --------------------------------------------------------------------------------
def header():
    if from_checkout():
        return ROOT / "client/include/kveik/kveik.h"
    path = pathlib.Path(pkg_config("--variable=includedir", "kveik").strip(), "kveik/kveik.h")
    if not path.exists():
        stop(f"{path} is not there", "install libkveik with its header: cmake --install build/...")
    return path


def declarations(text, api):
    """A header without what only a preprocessor understands."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"#ifdef __cplusplus\n.*?#endif", "", text, flags=re.S)
    text = re.sub(r"\\\n", "", text)
    constants = re.findall(rf"^#define ({api}_\w+)\s+\d+\s*$", text, re.M)
    text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
    text = re.sub(r"\bKVEIK_API\b", "", text)
    return "".join(f"#define {name} ...\n" for name in constants) + text


def cdef():
    glue = declarations((HERE / "glue.h").read_text(), "GLUE")
    # C's atomics are nothing for cffi: the compiler says how large the handle is
    glue = re.sub(r"struct glue_handle \{.*?\};", "struct glue_handle { ...; };", glue, flags=re.S)
    callbacks = """
        extern "Python" void glue_on_fill(void *, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t,
                                          const void *, size_t);
        extern "Python" int glue_on_check(void *, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t,
                                          const void *, size_t);
    """
    return declarations(header().read_text(), "KVEIK") + glue + callbacks


# ---- compiling and linking -----------------------------------------------------------------------
def run(command, problem):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        stop(problem, "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-20:]))
    return done.stdout


def pkg_config(*arguments):
    if shutil.which("pkg-config") is None:
        stop("pkg-config is missing", f"Debian: {PACKAGES}, or apt-get install pkg-config")
    return run(["pkg-config", *arguments],
               "pkg-config does not find what is needed: in a checkout the packages that "
               f"`{PACKAGES}` installs; elsewhere, and with KVEIK_SYSTEM set, the installed "
               "library (`cmake --install build/release`; is its pkgconfig folder in "
               "PKG_CONFIG_PATH?)")


def build_library():
    """The archives, up to date. Two installations at once take turns."""
    for program, package in (("cmake", "cmake"), ("ninja", "ninja-build"), ("cc", "gcc"),
                             ("protoc-c", "protobuf-c-compiler")):
        if shutil.which(program) is None and not (program == "cc" and os.environ.get("CC")):
            stop(f"{program} is missing: it builds libkveik from this checkout",
                 f"Debian: {PACKAGES}, or apt-get install {package}")
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(["cmake", "-S", str(ROOT), "-B", str(BUILD / "library"), "-G", "Ninja",
             "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DKVEIK_TESTS=OFF"],
            f"libkveik cannot be configured; `{PACKAGES}` installs what it needs (Debian 12)")
        run(["cmake", "--build", str(BUILD / "library"), "--target", "kveik_static"],
            "libkveik does not build")
    return [str(BUILD / "library/lib" / name) for name in ARCHIVES]


def link(extension):
    """Gives the extension what it is compiled and linked with."""
    words = ["-Wl,--as-needed", "-Wl,--gc-sections", "-Wl,-z,relro,-z,now"]
    if from_checkout():
        archives = build_library()
        # ours stays ours: another libkveik in the same process meets none of its symbols
        words += ["-Wl,--exclude-libs,ALL", "-Wl,--start-group", *archives, "-Wl,--end-group",
                  *pkg_config("--libs", *LIBRARIES).split(), "-pthread"]
        extension.include_dirs += [str(ROOT), str(ROOT / "client/include")]
        extension.depends += [*archives, str(header())]
    else:
        words += pkg_config("--libs", "kveik").split()
        extension.extra_compile_args += pkg_config("--cflags", "kveik").split()
    extension.extra_link_args += words


ffibuilder = FFI()
ffibuilder.cdef(cdef())
ffibuilder.set_source("kveik._native", '#include "glue.h"\n', sources=["glue.c"],
                      include_dirs=[str(HERE)], depends=["glue.h", "native_build.py"],
                      extra_compile_args=["-std=gnu17", "-O2", "-fvisibility=hidden",
                                          "-ffunction-sections"],
                      py_limited_api=True)

if __name__ == "__main__":
    print(cdef())
