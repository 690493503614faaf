"""Letters with an enrollment code, one page of HTML each, to be printed and handed to who sets up the device.

A page stands alone: no script, no picture or style from elsewhere; every value of the operator's is escaped.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import segno

from cmpd.cli.codes import bounds, code_url, uses_text, validity_text
from cmpd.cli.output import plain
from cmpd.exchange import EnrollmentCode
from cmpd.profile import Profile

_DOCUMENT = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
@page {{ size: A4; margin: 20mm }}
body {{ font: 11pt/1.45 sans-serif; color: #000; background: #fff; max-width: 172mm; margin: 0 auto }}
article {{ break-after: page; padding: 4mm 0 }}
article:last-of-type {{ break-after: auto }}
h1 {{ font-size: 18pt; margin: 0 0 2mm }}
dl {{ display: grid; grid-template-columns: 32mm 1fr; gap: 2mm 4mm; margin: 6mm 0 }}
dt {{ font-weight: bold }}
dd {{ margin: 0; overflow-wrap: anywhere; unicode-bidi: isolate }}
code {{ font-family: monospace }}
.secret {{ border: 0.4mm solid #000; padding: 5mm 3mm; margin: 6mm 0; text-align: center; break-inside: avoid }}
.secret code {{ font-size: 19pt; font-weight: bold; letter-spacing: 0.02em; overflow-wrap: anywhere }}
.enroll {{ display: flex; gap: 8mm; break-inside: avoid }}
.enroll svg {{ width: 46mm; height: 46mm; flex: none }}
ol {{ margin: 0; padding-left: 6mm }}
li {{ margin-bottom: 1.5mm }}
</style>
</head>
<body>
{pages}
</body>
</html>
"""

_LETTER = """\
<article>
<h1>Enrollment code</h1>
<p>for {name}{description}</p>
<dl>
<dt>CMP server</dt><dd><code>{url}</code></dd>
<dt>Reference</dt><dd><code>{reference}</code></dd>
<dt>Good for</dt><dd>{good_for}</dd>
{bounds}</dl>
<div class="secret"><p>Secret</p><code>{secret}</code></div>
<section class="enroll">
{qr}
<div>
<ol>
<li>Give the device the address of the CMP server.</li>
<li>Give it the reference; devices call it reference value, senderKID, ref or user name. When it cannot be set, the
address is <code>{code_url}</code>, which the square code has too.</li>
<li>Give it the secret, in capital letters and with the hyphens.</li>
<li>Have it enroll (an initialization request, ir).</li>
<li>Shred this letter. If anybody else may have read it before the device was enrolled, say so at once: the code can be
revoked.</li>
</ol>
{warning}</div>
</section>
</article>"""

_GLOBAL = "<p><strong>This secret is the same for all devices: whoever reads it can enroll another one.</strong></p>\n"


def letter(profile: Profile, code: EnrollmentCode, secret: str, url: str) -> str:
    """One page; `url` is the profile's own."""
    direct = code_url(url, code)
    return _LETTER.format(
        name=_html(profile.display_name),
        description=f", {_html(profile.description)}" if profile.description else "",
        url=_html(url),
        code_url=_html(direct),
        reference=_html(code.reference),
        good_for=_html(f"{uses_text(code)}, {validity_text(code)}"),
        bounds="".join(f"<dt>Only for</dt><dd>{_html(one)}</dd>\n" for one in bounds(code) if not code.is_global),
        secret=_html(secret),
        qr=qr_code(direct).svg_inline(omitsize=True, dark="#000", light="#fff"),
        warning=_GLOBAL if code.is_global else "",
    )


def document(letters: Sequence[str]) -> str:
    """The pages as one HTML file."""
    title = "Enrollment code" if len(letters) == 1 else f"{len(letters)} enrollment codes"
    return _DOCUMENT.format(title=title, pages="\n".join(letters))


def qr_code(url: str) -> Any:
    """A QR code (ISO/IEC 18004) that stands up to a fold or a stain: 15 % of it may be lost."""
    return segno.make(url, error="m", micro=False)


def _html(text: str) -> str:
    return escape(plain(text))
