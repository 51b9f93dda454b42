"""What may be wrong with an adapter's files."""


class ArtifactError(ValueError):
    """The files are no adapter that may be served; `str()` is a sentence for the user.

    `code` is one of `missing_file`, `unexpected_file`, `pickle`, `bad_manifest`, `bad_config`, `unsupported`, `bad_header`,
    `unknown_tensor`, `missing_tensor`, `wrong_shape`, `wrong_dtype`, `not_finite`, `no_effect`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.code, str(self))
