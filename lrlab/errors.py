"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """Bad input. The message is one line that names the option, its value and what would work.

    Entry points print it as ``lrlab: <message>`` and exit with code 2, without a traceback.
    """
