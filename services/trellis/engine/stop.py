"""Stop strings in a text that arrives in pieces."""

from collections.abc import Sequence


class StopStrings:
    """Lets text through until one of the strings comes; what may yet become one is held back."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found = False
        """Whether one came; nothing is let through afterwards."""

    def push(self, text: str) -> str:
        """The text that is now certain to be part of the answer."""
        if not self._strings:
            return text
        if self.found:
            return ""
        self._held += text
        starts = [start for string in self._strings if (start := self._held.find(string)) >= 0]
        if starts:
            self.found = True
            certain, self._held = self._held[: min(starts)], ""
            return certain
        keep = self._longest_beginning()
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def finish(self) -> str:
        """What is still held back, at the end of the answer."""
        text, self._held = self._held, ""
        return text

    def _longest_beginning(self) -> int:
        """How many characters at the end of the held text are the beginning of a stop string."""
        longest = max(len(string) for string in self._strings)
        for length in range(min(longest - 1, len(self._held)), 0, -1):
            if any(string.startswith(self._held[-length:]) for string in self._strings):
                return length
        return 0
