"""``python -m lrlab.report outputs/<sweep>``: write the sweep's report.html again."""

from __future__ import annotations

import sys

from lrlab._version import __version__
from lrlab.errors import NotWritten, UserError, printable
from lrlab.process import only_json, verbs
from lrlab.process.verbs import Parser, path


def main() -> None:
    """Run the command."""
    verbs.begin()
    parser = Parser(
        prog="python -m lrlab.report",
        description="Make a sweep's report.html: one page that opens offline, with the answer, the "
        "verdicts, interactive loss curves, the plots of its plots/, configs and environment.",
        epilog="A sweep that still runs is shown as far as it is. Exit code: 2 for bad input, "
        "1 where the page cannot be made or written.",
    )
    parser.add_argument("sweep", type=path, help="a sweep's folder, for example outputs/my_sweep")
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
        print(f"lrlab: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except Exception as error:
        from lrlab.plots.drawing import described

        print(printable(f"lrlab: report was not drawn: {described(error)}"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("lrlab: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
