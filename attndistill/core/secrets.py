"""Passwords and tokens in text: hidden before anything is printed or recorded. No import that takes time.

A reader would get wrong: a password may itself hold an @ (its address is refused later, but the refusal names it), and
`http://host:5000/a?mail=b@c` holds none, since a port comes before the path.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

_WORD = r"(?:pass(?:w(?:or)?d)?|pwd|token|secret|api[_-]?key|access[_-]?key|credentials?|signature)"
_SHORT = "key|sig|auth|sas|jwt|pw|code|session"  # too short for names anywhere else
_ISSUED = r"hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA|AIza"  # how tokens of well-known services begin
_ADDRESS = re.compile(r"^([\w+.-]+://)([^/?#]*)", re.DOTALL)
_END = r"(?!\*\*\*)[^\s'\",;&]+"  # of a value that is not hidden yet
_NAMED = rf"(?:(?:[\w.-]{{0,60}}[_.-])?{_WORD.replace('token|', '')}|token)"  # db_password, api.secret; not cls_token
_PATTERNS = (
    # user:password@ of an address; bounded, so that a line of a megabyte costs no minute
    (re.compile(r"(://[^\s:/@'\"]{0,200}):(?!\d+[/?#])[^\s'\"]{1,300}@"), r"\1:***@"),
    (re.compile(r"(https?://)[^\s:/@'\"?#]{1,300}@"), r"\1***@"),  # a token in place of the user
    # values of a query: ?password=, &X-Amz-Signature=, ;sig=, #access_token=
    (re.compile(rf"([?&;#](?:[\w.%~-]{{0,60}}?{_WORD}[\w.%~-]{{0,60}}|{_SHORT})=)[^&;\s'\"#]+", re.I), r"\1***"),
    (re.compile(rf"\b({_ISSUED})[\w-]{{16,}}"), r"\1***"),
    # password=..., "token": ..., --api-key=..., not cls_token
    (re.compile(rf"((?<![\w.-])(?:--)?{_NAMED}['\"]?(?:=|:\s|\s*=\s)\s*['\"]?){_END}", re.I), r"\1***"),
    (re.compile(rf"\b([A-Z][A-Z0-9_]{{0,60}}(?:PASSWORD|PASSWD|TOKEN|SECRET|KEY)=['\"]?){_END}"), r"\1***"),
    # --password ..., password '...'
    (re.compile(rf"((?<![\w.-])(?:--{_NAMED}\s+|{_WORD}\s+(?=['\"]))['\"]?)(?!--){_END}", re.I), r"\1***"),
    (re.compile(r"(\b(?:Bearer|Basic)\s+|\bAuthorization:\s*token\s+)[\w.+/=~-]{6,}"), r"\1***"),
)
_IN_CODE = 4  # of the patterns
_SECRET_FILES = (
    ".env*", "*.env", "*id_rsa*", "*id_dsa*", "*id_ecdsa*", "*id_ed25519*", "*.pem", "*.key", "*.ppk", "*.p12", "*.pfx",
    "*.jks", "*.keystore", "*.kdbx", "*.gpg", "*credential*", "*secret*", "*password*", "*.token", "token", "token.*",
    "*[_-]token", "*[_-]token.*", "*api[_-]key*", "*apikey*", ".netrc", "_netrc", ".pgpass", ".htpasswd", ".npmrc",
    ".pypirc", ".my.cnf", ".git-credentials", "kaggle.json", "rclone.conf", "service[_-]account*", "config.local",
    "*private[_-]key*", "*privkey*", "*[_-]key", "*[_-]key.*", "key.json", "auth.json", "*passwd*", "pw", "pw.*",
    ".boto", ".s3cfg", "kubeconfig*", "*.tfstate*", "*vault*", "*cookies*", "*adminsdk*",
)  # fmt: skip
_SECRET_FOLDERS = {
    "secrets", ".secrets", ".env", ".config", ".ssh", ".aws", ".azure", ".gcloud", ".gnupg", ".kube", ".docker",
}  # fmt: skip
_CODE = (".py", ".pyi", ".md", ".rst", ".html", ".js", ".css", ".ipynb")  # secrets.py speaks of secrets and holds none


def hidden(text: str, *, code: bool = False) -> str:
    """`text` with *** for each password and token in it; of code, in addresses alone (`f(token=x)` tells nothing)."""
    address = _ADDRESS.match(text)
    if address and "@" in address[2] and text.count("://") == 1:  # an address alone: blanks and quotes are its own
        user, colon, _ = address[2].rpartition("@")[0].partition(":")
        shown = f"{user}:***@" if colon else f"{user}@"
        text = f"{address[1]}{shown}{address[2].rpartition('@')[2]}{text[address.end() :]}"
    for pattern, shown in _PATTERNS[: _IN_CODE if code else None]:
        text = pattern.sub(shown, text)
    return text


def hidden_in(value: Any) -> Any:
    """The same for every text in nested mappings and lists; what follows a word such as --password is hidden too."""
    if isinstance(value, str):
        return hidden(value)
    if isinstance(value, Mapping):
        return {
            key: "***" if isinstance(entry, str) and entry and _ASKS.fullmatch(f"--{key}") else hidden_in(entry)
            for key, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        words = [hidden_in(entry) for entry in value]
        return [
            "***" if index and isinstance(word, str) and _ASKS.fullmatch(str(words[index - 1])) else word
            for index, word in enumerate(words)
        ]
    return value


_ASKS = re.compile(rf"--?(?:[\w-]+[.-])?{_NAMED}", re.IGNORECASE)


def says_secret(path: str) -> bool:
    """Whether a file's name, or its folder's, says that it holds a secret: .env, id_rsa, server.pem, ..."""
    place = PurePosixPath(path.lower())
    named = any(fnmatch(place.name, pattern) for pattern in _SECRET_FILES)
    return bool(_SECRET_FOLDERS & set(place.parts[:-1])) or (named and place.suffix not in _CODE)
