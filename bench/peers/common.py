"""What the programs here share: llama.cpp from its npm package, the models, and running commands.

The libraries are the prebuilt ones of node-llama-cpp, driven through their C API by llamacpp_bench.cc. They and the
models are kept in ~/.cache/sinter-peers (XDG_CACHE_HOME).
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sinter-peers"
NPM_VERSION = "3.22.1"
FLOATS = ("f32", "f16", "bf16")  # kinds of weights; all others are quantized
UNSUPPORTED = 3  # exit code of `sinter` for a model that it does not support
PROGRAM = Path(sys.argv[0]).name


def say(text):
    print(text, file=sys.stderr, flush=True)


def failure(command, code, errors):
    return f"{PROGRAM}: '{' '.join(map(str, command))}' failed ({code}):\n{errors.strip()}"


def output(command, **options):
    """What a command prints; a failure ends the program with its message."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(failure(command, done.returncode, done.stderr))
    return done.stdout


def supported(command):
    """Runs one of Sinter's; False, and its error said, when it does not support the model."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode not in (0, UNSUPPORTED):
        sys.exit(failure(command, done.returncode, done.stderr))
    if done.returncode:
        say(done.stderr[max(0, done.stderr.find("sinter: error:")):].strip())
    return done.returncode == 0


def install_llamacpp():
    """The folder of the libraries, and the program built against them."""
    modules = CACHE / "node_modules"
    libraries = modules / "@node-llama-cpp" / "linux-x64" / "bins" / "linux-x64"
    if not (CACHE / "src" / "include").is_dir() or not libraries.is_dir():
        for tool in ("npm", "git", "g++"):
            if not shutil.which(tool):
                sys.exit(f"{PROGRAM}: {tool} is missing; Debian: apt-get install npm git g++")
        say(f"installing llama.cpp (node-llama-cpp {NPM_VERSION}) into {CACHE}")
        CACHE.mkdir(parents=True, exist_ok=True)
        if not (CACHE / "package.json").exists():
            output(["npm", "init", "-y"], cwd=CACHE)
        output(["npm", "install", "--ignore-scripts", "--no-fund", "--no-audit", f"node-llama-cpp@{NPM_VERSION}",
                f"@node-llama-cpp/linux-x64@{NPM_VERSION}"], cwd=CACHE)
        shutil.rmtree(CACHE / "src", ignore_errors=True)
        output(["git", "-c", "advice.detachedHead=false", "clone", "-q",
                modules / "node-llama-cpp" / "llama" / "gitRelease.bundle", CACHE / "src"])
    program, source = CACHE / "sinter_llamacpp_bench", HERE / "llamacpp_bench.cc"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        objects = sorted(libraries.glob("libllama.v*.so")) + sorted(libraries.glob("libggml.v*.so"))
        output(["g++", "-O2", "-std=c++17", "-I", CACHE / "src/include", "-I", CACHE / "src/ggml/include", source, "-o",
                program, *objects, libraries / "libggml-base.so", f"-Wl,-rpath,{libraries}"])
    return program, libraries


def quantize(tools, path, made, kind):
    """llama.cpp's own quantizer makes a file of another kind, under its name when it is whole; f32 undoes it."""
    program, libraries = tools
    say(f"making {made.name}")
    made.parent.mkdir(parents=True, exist_ok=True)
    partial = made.with_suffix(".partial")
    output([program, libraries, path, "--quantize", partial, "--type", kind, "-t", os.cpu_count()])
    partial.rename(made)


def model_file(model, kind, tools, keep_base=True):
    """The path of the model, made if it is not there; None if it cannot be made here.

    Quantized ones are made from the same model in f16, which goes again, if it was made for that, without keep_base."""
    path = CACHE / "models" / f"{model}-{kind}.gguf"
    if model == "stories260K" and kind == "f32":  # a trained model, which the shared test data holds
        data = Path(os.environ.get("SINTER_SHARED") or ROOT.parent / "shared")
        path = data / "models" / "stories260K.gguf"
        return path if path.exists() else None
    if path.exists():
        return path
    if kind in FLOATS and model != "stories260K":
        say(f"making {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        output(["/usr/bin/python3", HERE / "make_models.py", model, kind, path])
        return path
    known = list((CACHE / "models").glob(f"{model}-*.gguf"))
    base = base_file(model, tools)
    if base is None:
        return None
    quantize(tools, base, path, kind)
    if not keep_base and base.parent == path.parent and base not in known:
        base.unlink()
    return path


def base_file(model, tools):
    """What the quantized files of a model are made from."""
    return model_file(model, "f32" if model == "stories260K" else "f16", tools)


def cpu_name():
    with open("/proc/cpuinfo") as file:
        return next((l.split(":")[1].strip() for l in file if l.startswith("model name")), "unknown CPU")
