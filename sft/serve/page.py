"""The page at /: page.html, one static file that uses this server's API like any client.

Texts of models and users are only ever set as text in it. Should one get into its markup all the same, the policy that
goes with it lets nothing run but the script it came with, and lets that reach nothing but this server.
"""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html")


@cache
def show_page() -> HTMLResponse:
    """The page with its Content-Security-Policy; the same response serves everybody."""
    html = PAGE.read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {hash_of('script', html)}; style-src {hash_of('style', html)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(html, headers=headers)


def hash_of(tag: str, html: str) -> str:
    """What the policy calls the one inline element of a tag: hash_of("style", html) -> "'sha256-…'"."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
