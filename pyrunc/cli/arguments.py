"""The command line as Go programs take it: -flag, --flag, --flag=value, --flag value; flags end at the first
argument of a verb that takes a command, and at --."""

from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Value = bool | str | list[str]


MOST_DIGITS = 20  # of 64 bits; int() of thousands of them raises what no user is to read


def is_count(text: str) -> bool:
    """Digits, and no more than the kernel takes."""
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS


class Flag:
    """One flag.

    Args:
        names: the long name first, then its short forms.
        help: a sentence for --help.
        value: what --help calls its value; "" is a flag without one.
        default: what it is when it is not given.
        shown: what --help calls the default, where that is found out later.
        many: it may be given several times, and is a list.
        hidden: not in --help.
    """

    __slots__ = ("default", "help", "hidden", "many", "names", "shown", "value")

    def __init__(
        self,
        *names: str,
        help: str,
        value: str = "",
        default: str = "",
        many: bool = False,
        hidden: bool = False,
        shown: str = "",
    ) -> None:
        self.names = names
        self.help = help
        self.value = value
        self.default = default
        self.many = many
        self.hidden = hidden
        self.shown = shown or default

    @property
    def name(self) -> str:
        return self.names[0]


class Usage:
    """What a verb takes.

    Args:
        verb: its name.
        arguments: as --help shows them: "ID [SIGNAL]".
        summary: one line.
        flags: its flags.
        least, most: how many arguments; most None: any number.
        stop: flags end at the first argument, as what follows is a command of the container's.
        details: paragraphs for --help.
    """

    __slots__ = ("arguments", "details", "flags", "least", "most", "stop", "summary", "verb")

    def __init__(
        self,
        verb: str,
        arguments: str = "",
        summary: str = "",
        flags: "tuple[Flag, ...]" = (),
        least: int = 0,
        most: "int | None" = 0,
        stop: bool = False,
        details: str = "",
    ) -> None:
        self.verb = verb
        self.arguments = arguments
        self.summary = summary
        self.flags = flags
        self.least = least
        self.most = most
        self.stop = stop
        self.details = details


class Arguments:
    """What was given: `arguments["flag"]`, and `arguments.rest` without the flags."""

    __slots__ = ("given", "rest", "values")

    def __init__(self, usage: Usage) -> None:
        self.values: dict[str, Value] = {}
        self.given: set[str] = set()
        self.rest: list[str] = []
        for flag in usage.flags:
            self.values[flag.name] = [] if flag.many else flag.default if flag.value else False

    def on(self, name: str) -> bool:
        return bool(self.values[name])

    def text(self, name: str) -> str:
        value = self.values[name]
        assert isinstance(value, str)
        return value

    def texts(self, name: str) -> "list[str]":
        value = self.values[name]
        assert isinstance(value, list)
        return value

    def number(self, name: str) -> int:
        """A count: digits only."""
        text = self.text(name) or "0"
        if not is_count(text):
            raise UsageError(f"flag --{name}", f'"{text}"', "is not a number")
        return int(text)


class UnknownFlag(UsageError):
    """A flag that the verb has not. The words are runc's; the hint is found where it is shown (pyrunc.cli.hints)."""

    __slots__ = ("flag", "usage")

    def __init__(self, usage: Usage, flag: str) -> None:
        super().__init__(_whose(usage), "", f"flag provided but not defined: -{flag}")
        self.usage = usage
        self.flag = flag


def _whose(usage: Usage) -> str:
    return f"pyrunc {usage.verb}" if usage.verb else "before the verb"


HELP = Flag("help", "h", help="show help")
TRUE = ("true", "1", "t", "T", "TRUE", "True")
FALSE = ("false", "0", "f", "F", "FALSE", "False")


def parse(usage: Usage, words: "list[str]", only_flags: bool = False) -> Arguments:
    """Take a verb's words apart. Raises UsageError.

    Args:
        only_flags: stop at the first word that is no flag (the flags before the verb).
    """
    result = Arguments(usage)
    known = {name: flag for flag in (*usage.flags, HELP) for name in flag.names}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "--":
            result.rest += words[position:]
            break
        if word[:1] != "-" or word == "-":
            result.rest.append(word)
            if only_flags or usage.stop:
                result.rest += words[position:]
                break
            continue
        name, equals, value = word.lstrip("-").partition("=")
        flag = known.get(name)
        if flag is None or len(word) - len(word.lstrip("-")) > 2:
            raise UnknownFlag(usage, name)
        if flag.value and not equals:
            if position >= len(words):
                raise UsageError(_whose(usage), "", f"flag needs an argument: -{name}", f"{flag.value}: {flag.help}")
            value = words[position]
            position += 1
        _set(result, flag, value, bool(equals))
    return result


def _set(result: Arguments, flag: Flag, value: str, given: bool) -> None:
    result.given.add(flag.name)
    if flag.many:
        result.texts(flag.name).append(value)
    elif flag.value:
        result.values[flag.name] = value
    elif given and value not in TRUE + FALSE:
        raise UsageError(f"flag --{flag.name}", f'"{value}"', "is neither true nor false")
    else:
        result.values[flag.name] = value in TRUE if given else True


def check_count(usage: Usage, arguments: Arguments) -> None:
    count = len(arguments.rest)
    if count < usage.least or (usage.most is not None and count > usage.most):
        takes = (
            f"{usage.least}"
            if usage.most == usage.least
            else f"{usage.least} or more"
            if usage.most is None
            else f"{usage.least} to {usage.most}"
        )
        bundle = "[--bundle DIR] " if any(flag.name == "bundle" for flag in usage.flags) else ""
        raise UsageError(
            f'"{usage.verb}"',
            "",
            f"requires {takes} argument(s), got {count}",
            f"usage: pyrunc {usage.verb} {bundle}{usage.arguments}".rstrip(),
        )
