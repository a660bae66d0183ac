"""``python -m lrlab.report outputs/<sweep>``: write the sweep's report.html again."""

from __future__ import annotations

from lrlab._version import __version__
from lrlab.errors import NotWritten, UserError, printable
from lrlab.process import only_json, verbs
from lrlab.process.verbs import Parser, path


def main() -> None:
    """Run the command."""
    verbs.begin()
    parser = Parser(
        prog="python -m lrlab.report",
        description="Write a sweep's report.html: one page that opens offline, with the answer, "
        "the verdicts, interactive loss curves, the figures in plots/, configs and environment.",
        epilog="A sweep that is still running is shown so far. Exit code: 2 for bad input, 1 if "
        "the page cannot be made or written.",
    )
    parser.add_argument(
        "sweep", type=path, metavar="SWEEP", help="a sweep's folder, for example outputs/my_sweep"
    )
    parser.add_argument("--json", action="store_true", help=only_json.HELP)
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    try:
        arguments = parser.parse_args()
        from lrlab import report
        from lrlab.process.paths import display_path

        file = report.write(arguments.sweep)
        if arguments.json:
            only_json.show({**only_json.head("report"), "report": str(file.absolute())})
        else:
            print(printable(f"report {display_path(file)}"))
    except (UserError, NotWritten) as error:
        verbs.fail(str(error), 2 if isinstance(error, UserError) else 1)
    except Exception as error:
        from lrlab.plots.drawing import described

        verbs.fail(f"report was not drawn: {described(error)}", 1)
    except KeyboardInterrupt:
        verbs.fail("interrupted", 130)


if __name__ == "__main__":
    main()
