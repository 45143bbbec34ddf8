"""The one error that users may see: it says what was got, what is allowed and what to do next."""


class ExitLensError(ValueError):
    """Input that cannot be used. The message is one or two plain sentences, fit for a screen."""


class Cancelled(Exception):
    """Raised inside long work once its cancel token is set; nothing is kept from the unfinished part."""
