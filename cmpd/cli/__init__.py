"""The command `cmpd`: names, options and help texts. What a command does is in the modules beside this one.

They are imported when their command runs, so that `cmpd --help` and a wrong option are answered at once.
"""

import enum
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cmpd.cli.output import OperatorError, plain
from cmpd.cli.questions import questions

DEFAULT_CONFIG = Path("/etc/cmpd/cmpd.toml")

app = typer.Typer(
    name="cmpd",
    help="A CMP server: issues and renews certificates over RFC 9810, RFC 9483 and RFC 9811.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
code = typer.Typer(help="Enrollment codes, the shared secrets of a first enrollment.", no_args_is_help=True)
profile = typer.Typer(help="Certificate profiles.", no_args_is_help=True)
ca = typer.Typer(help="The certificates of the issuing CA.", no_args_is_help=True)
cert = typer.Typer(help="Issued certificates.", no_args_is_help=True)
template = typer.Typer(help="Base templates, what profiles start from.", no_args_is_help=True)
seat = typer.Typer(help="Seats: who holds which certificates.", no_args_is_help=True)
refusals = typer.Typer(help="Requests that were refused, and why.")
service_user = typer.Typer(help="Service users: certificates that alone may use a profile.", no_args_is_help=True)
order = typer.Typer(help="Certificates on order at issuers that take their time.", no_args_is_help=True)
node = typer.Typer(help="Processes that serve from the store.", no_args_is_help=True)
device = typer.Typer(help="Devices that enroll with the certificate of their maker.", no_args_is_help=True)
app.add_typer(code, name="code")
app.add_typer(profile, name="profile")
app.add_typer(template, name="template")
app.add_typer(ca, name="ca")
app.add_typer(cert, name="cert")
app.add_typer(seat, name="seat")
app.add_typer(refusals, name="refusals")
app.add_typer(service_user, name="service-user")
app.add_typer(device, name="device")
app.add_typer(order, name="order")
app.add_typer(node, name="node")
store_commands = typer.Typer(help="The database as a whole.", no_args_is_help=True)
app.add_typer(store_commands, name="store")

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration; else CMPD_CONFIG, else /etc/cmpd/cmpd.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Profile = Annotated[str, typer.Option("--profile", metavar="NAME", help="The profile's name.")]
OfProfile = Annotated[str | None, typer.Option("--profile", metavar="NAME", help="Only those of this profile.")]
Reference = Annotated[str, typer.Option("--reference", metavar="R", help="The code's reference.")]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="Only `usable`, `not-yet-valid`, `locked`, `used-up`, `expired` or `revoked` ones; repeatable.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")]
Directory = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The folder to make.")]
Listen = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where to serve CMP; else 127.0.0.1:8829.")
]
AllowHTTP = Annotated[
    bool,
    typer.Option("--allow-http", help="Serve other machines over plain HTTP; without it --listen is loopback only."),
]
AdminListen = Annotated[
    str | None,
    typer.Option("--admin-listen", metavar="HOST:PORT", help="Where to serve metrics and health; else 127.0.0.1:9829."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit status 1 and a line on standard error for what an operator can put right, 2 for misuse."""
    try:
        app(args=arguments, prog_name="cmpd")
    except OperatorError as fault:
        sys.stderr.write("".join(f"cmpd: {plain(line)}\n" for line in str(fault).split("\n")))
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  start-up time

        try:
            number = version("cmpd")
        except PackageNotFoundError:
            number = "(not installed as a package)"
        sys.stdout.write(f"cmpd {number}\n")
        raise typer.Exit


@app.callback()
def _all(
    context: typer.Context,
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", envvar="CMPD_CONFIG", help="The configuration.")
    ] = DEFAULT_CONFIG,
    version: Annotated[  # noqa: ARG001  _version has answered it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = config


def _chosen(context: typer.Context, config: Path | None) -> Path:
    chosen: Path = context.obj if config is None else config
    return chosen


@app.command()
def quickstart(
    directory: Directory = Path("cmpd-data"),
    listen: Listen = None,
    allow_http: AllowHTTP = False,
    admin_listen: AdminListen = None,
    json: Json = False,
) -> None:
    """Make a CA unless it is there, serve, and show how to enroll.

    In a folder that is there already, --listen, --allow-http and --admin-listen hold for this run only.
    """
    from cmpd.cli import setup  # noqa: PLC0415  start-up time

    setup.quickstart(directory, listen=listen, allow_http=allow_http, admin_listen=admin_listen, json=json)


@app.command()
def init(
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="The folder to make.")],
    listen: Listen = None,
    allow_http: AllowHTTP = False,
    admin_listen: AdminListen = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="How clients reach the service; else http:// and --listen."),
    ] = None,
    json: Json = False,
) -> None:
    """Make configuration, CA, database and profile; overwrite nothing."""
    from cmpd.cli import setup  # noqa: PLC0415  start-up time

    setup.init(directory, listen=listen, allow_http=allow_http, admin_listen=admin_listen, url=url, json=json)


@app.command()
def serve(
    context: typer.Context,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, max=64, help="Serve by so many processes; else `server.workers`."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Serve until SIGTERM; SIGHUP loads the configuration anew."""
    from cmpd.cli import service  # noqa: PLC0415  start-up time

    service.serve(_chosen(context, config), workers=workers)


@app.command()
def check(context: typer.Context, config: Config = None, json: Json = False) -> None:
    """Load everything as `serve` does and say what is wrong."""
    from cmpd.cli import service  # noqa: PLC0415  start-up time

    service.check(_chosen(context, config), json=json)


@app.command()
def doctor(
    context: typer.Context,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="NAME", help="Only this issuer and the profiles that use it.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Examine issuers and their accounts, store and profiles: what is fine, and what will hold up certificates.

    Nothing is changed. Exit status 1 when something is a problem.
    """
    from cmpd.cli import examination  # noqa: PLC0415  start-up time

    examination.show(_chosen(context, config), issuer=issuer, json=json)


@app.command()
def reload(context: typer.Context, config: Config = None, json: Json = False) -> None:
    """Have the running daemon load its configuration anew, and say what came of it."""
    from cmpd.cli import running  # noqa: PLC0415  start-up time

    running.reload(_chosen(context, config), json=json)


@app.command()
def schema(
    settings: Annotated[bool, typer.Option("--settings", help="That of cmpd.toml.")] = False,
) -> None:
    """Print the JSON Schema of a profile file, or of cmpd.toml, for editors."""
    from cmpd.cli import schemas  # noqa: PLC0415  start-up time

    schemas.show(settings=settings)


@app.command()
def explain(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A PKIMessage: DER, PEM or base64; - is standard input.")],
    profile: Profile,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Decide as of 2026-01-31T12:00:00Z, or `message`: its messageTime."),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="IP", help="As if it came from there; else 127.0.0.1.")
    ] = None,
    code: Annotated[
        str | None,
        typer.Option("--code", metavar="R", help="As if it came to /cmp/ID/R, which names the enrollment code."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            "--tls-certificate", metavar="PEM", help="As if it came over TLS from who has this; its chain may follow."
        ),
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Say what would come of a request, rule by rule. Nothing is issued, and nothing changes."""
    from cmpd.cli import explanation  # noqa: PLC0415  start-up time

    explanation.show(
        _chosen(context, config),
        file,
        profile=profile,
        at=at,
        address=address,
        code=code,
        tls_certificate=tls_certificate,
        json=json,
    )


@app.command()
def show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A PKIMessage: DER, PEM or base64; - is standard input.")],
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret",
            metavar="SOURCE",
            help="Check a MAC with env:NAME, file:PATH, prompt or pass:TEXT (visible in process lists).",
        ),
    ] = None,
    trusted: Annotated[
        list[Path] | None,
        typer.Option(
            "--trusted", metavar="PEM", help="Check signature protection up to this CA certificate; repeatable."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show a CMP message in words; check its protection."""
    from cmpd.cli import message  # noqa: PLC0415  start-up time

    message.show(file, secret=secret, trusted=trusted or [], json=json)


@code.command("create")
def code_create(
    context: typer.Context,
    profile: Profile,
    uses: Annotated[
        str | None,
        typer.Option(
            "--uses",
            metavar="N",
            help="How many certificates it is good for, or `unlimited`; else 1, with --global unlimited.",
        ),
    ] = None,
    valid_from: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME|DURATION", help="When it begins to be good, or in how long; else now."),
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="DURATION|TIME", help="How long it is good, or until when, or `never`.")
    ] = "7d",
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="R", help="The name that the client sends; else a random one.")
    ] = None,
    seat: Annotated[str | None, typer.Option("--seat", metavar="SEAT", help="Good for this seat only.")] = None,
    subject: Annotated[
        str | None,
        typer.Option("--subject", metavar="RE", help="RE2 pattern for the whole subject, such as CN=pump-[0-9]+,O=X."),
    ] = None,
    san: Annotated[
        list[str] | None,
        typer.Option(
            "--san", metavar="RE", help="RE2 pattern that SAN entries such as dns:a.example must match; repeatable."
        ),
    ] = None,
    key_fingerprint: Annotated[
        str | None,
        typer.Option(
            "--key-fingerprint", metavar="SHA256", help="Good for the public key of this SubjectPublicKeyInfo hash."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="The same by a PEM public key, PKCS #10 request or certificate."),
    ] = None,
    is_global: Annotated[
        bool,
        typer.Option(
            "--global",
            help="Good for every reference value: one secret for a whole fleet. Whoever learns it can enroll any name"
            " that the profile allows, until it is revoked. The profile must allow it.",
        ),
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make an enrollment code. Its secret is shown now; later only `export` shows it."""
    from cmpd.cli import codes  # noqa: PLC0415  start-up time

    codes.create(
        _chosen(context, config),
        profile=profile,
        uses=uses,
        expires=expires,
        valid_from=valid_from,
        reference=reference,
        seat=seat,
        subject=subject,
        san=san or [],
        key_fingerprint=key_fingerprint,
        key=key,
        is_global=is_global,
        json=json,
    )


@code.command("list")
def code_list(
    context: typer.Context,
    profile: OfProfile = None,
    state: States = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List enrollment codes, without their secrets."""
    from cmpd.cli import codes  # noqa: PLC0415  start-up time

    codes.show_all(_chosen(context, config), profile=profile, states=state or [], json=json)


@code.command("show")
def code_show(
    context: typer.Context,
    reference: Reference,
    profile: Profile,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show everything about an enrollment code but its secret."""
    from cmpd.cli import codes  # noqa: PLC0415  start-up time

    codes.show(_chosen(context, config), profile=profile, reference=reference, json=json)


@code.command("revoke")
def code_revoke(
    context: typer.Context,
    reference: Reference,
    profile: Profile,
    config: Config = None,
    json: Json = False,
) -> None:
    """Revoke an enrollment code; certificates obtained with it stay valid."""
    from cmpd.cli import codes  # noqa: PLC0415  start-up time

    codes.revoke(_chosen(context, config), profile=profile, reference=reference, json=json)


@code.command("unlock")
def code_unlock(
    context: typer.Context,
    reference: Reference,
    profile: Profile,
    config: Config = None,
    json: Json = False,
) -> None:
    """Let an enrollment code be used again at once that wrong MACs have locked."""
    from cmpd.cli import codes  # noqa: PLC0415  start-up time

    codes.unlock(_chosen(context, config), profile=profile, reference=reference, json=json)


@code.command("verify")
def code_verify(
    context: typer.Context,
    profile: Annotated[str | None, typer.Option("--profile", metavar="NAME", help="The profile's name.")] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="R", help="Also see that it is this code's.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """See whether a secret is typed right; it is asked for, or read from standard input. Exit status 1 if not."""
    from cmpd.cli import codes  # noqa: PLC0415  start-up time

    codes.verify(_chosen(context, config), profile=profile, reference=reference, json=json)


@code.command("import")
def code_import(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A CSV with a header line; - is standard input. Columns, all optional: reference, secret (16"
            " characters or more), uses, valid_from, expires, seat, subject, san (several with spaces or semicolons"
            " between), key_fingerprint.",
        ),
    ],
    profile: Profile,
    uses: Annotated[
        str, typer.Option("--uses", metavar="N", help="How many certificates each is good for, where no cell says it.")
    ] = "1",
    expires: Annotated[
        str,
        typer.Option("--expires", metavar="DURATION|TIME", help="How long each is good, where no cell says it."),
    ] = "7d",
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write the codes to a new CSV, with their secrets."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only see whether all lines are right.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make many enrollment codes from a CSV: all, or none and every wrong line is named."""
    from cmpd.cli import code_files  # noqa: PLC0415  start-up time

    code_files.load(
        _chosen(context, config),
        file,
        profile=profile,
        uses=uses,
        expires=expires,
        dry_run=dry_run,
        output=output,
        json=json,
    )


@code.command("export")
def code_export(
    context: typer.Context,
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="csv|letters", help="A CSV, or letters to print: one HTML page for each code."
        ),
    ] = "csv",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE|DIR",
            help="The new file; else a CSV goes to standard output. Letters go into one FILE.html, or a new folder.",
        ),
    ] = None,
    profile: OfProfile = None,
    reference: Annotated[
        list[str] | None, typer.Option("--reference", metavar="R", help="Only this code; repeatable.")
    ] = None,
    state: States = None,
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="Write the secrets into the CSV; letters always have them.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Write enrollment codes as CSV or as letters: those that are good, or will be, unless --state says which."""
    from cmpd.cli import code_files  # noqa: PLC0415  start-up time

    code_files.save(
        _chosen(context, config),
        form=form,
        output=output,
        profile=profile,
        references=reference or [],
        states=state or [],
        with_secrets=with_secrets,
        json=json,
    )


@profile.command("list")
def profile_list(context: typer.Context, config: Config = None, json: Json = False) -> None:
    """List the profiles and their URLs."""
    from cmpd.cli import service  # noqa: PLC0415  start-up time

    service.profiles(_chosen(context, config), json=json)


@profile.command("show")
def profile_show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Show everything that is in effect in a profile, and whether template, file or default say it."""
    from cmpd.cli import profiles  # noqa: PLC0415  start-up time

    profiles.show(_chosen(context, config), name, json=json)


def _asks_questions(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each question of the wizard, before its own."""
    own = [one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            one.parameter,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                list[str] | None if one.repeats else str | None,
                typer.Option(f"--{one.option}", metavar="NAME=VALUE" if one.repeats else "VALUE", help=one.help),
            ],
        )
        for one in questions()
    ]
    parameters: list[Any] = [own[0], *options, *(one.replace(kind=one.KEYWORD_ONLY) for one in own[1:])]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer looks at
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


@profile.command("new")
@_asks_questions
def profile_new(
    context: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the profile's file.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing; what no option answers is as in the template.")
    ] = False,
    config: Config = None,
    json: Json = False,
    **answers: str | list[str] | None,
) -> None:
    """Make a profile, page by page; every answer can be an option. Without a terminal nothing is asked."""
    from cmpd.cli import wizard  # noqa: PLC0415  start-up time

    wizard.new(_chosen(context, config), answers, force=force, yes=yes, json=json)


@template.command("list")
def template_list(json: Json = False) -> None:
    """List the base templates."""
    from cmpd.cli import profiles  # noqa: PLC0415  start-up time

    profiles.show_templates(json=json)


@template.command("show")
def template_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The template's name.")], json: Json = False
) -> None:
    """Show a base template: its defaults, and how far a profile may go."""
    from cmpd.cli import profiles  # noqa: PLC0415  start-up time

    profiles.show_template(name, json=json)


@seat.command("list")
def seat_list(
    context: typer.Context,
    profile: OfProfile = None,
    limit: Limit = 100,
    config: Config = None,
    json: Json = False,
) -> None:
    """List the seats, the one that was issued to last comes first."""
    from cmpd.cli import seats  # noqa: PLC0415  start-up time

    seats.show_all(_chosen(context, config), profile=profile, limit=limit, json=json)


@seat.command("show")
def seat_show(
    context: typer.Context,
    seat: Annotated[str, typer.Argument(metavar="SEAT", help="The seat ID.")],
    profile: Profile,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show a seat and the certificates that were issued to it."""
    from cmpd.cli import seats  # noqa: PLC0415  start-up time

    seats.show(_chosen(context, config), seat, profile=profile, json=json)


@refusals.callback(invoke_without_command=True)
def refusals_list(
    context: typer.Context,
    profile: OfProfile = None,
    limit: Limit = 50,
    config: Config = None,
    json: Json = False,
) -> None:
    """List the last requests that were refused, and why."""
    if context.invoked_subcommand is not None:
        return
    from cmpd.cli import refused  # noqa: PLC0415  start-up time

    refused.show_all(_chosen(context, config), profile=profile, limit=limit, json=json)


@refusals.command("show")
def refusals_show(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="ID", help="The refusal's number, or its transactionID.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Show one refusal: every rule of the profile that was held against the request."""
    from cmpd.cli import refused  # noqa: PLC0415  start-up time

    refused.show(_chosen(context, config), which, json=json)


@ca.command("chain")
def ca_chain(
    context: typer.Context,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="NAME", help="The issuer, when there are several.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Print the CA certificates as PEM: issuing CA first, root last."""
    from cmpd.cli import service  # noqa: PLC0415  start-up time

    service.chain(_chosen(context, config), issuer=issuer, json=json)


@cert.command("list")
def cert_list(
    context: typer.Context,
    profile: OfProfile = None,
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="STATUS", help="Only `unconfirmed`, `valid`, `kept` or `revoked` ones."),
    ] = None,
    limit: Limit = 100,
    config: Config = None,
    json: Json = False,
) -> None:
    """List issued certificates, newest first."""
    from cmpd.cli import certificates  # noqa: PLC0415  start-up time

    certificates.show_all(_chosen(context, config), profile=profile, status=status, limit=limit, json=json)


@cert.command("show")
def cert_show(
    context: typer.Context,
    serial: Annotated[str, typer.Argument(metavar="SERIAL", help="The serial number in hexadecimal.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Show one issued certificate and print it as PEM."""
    from cmpd.cli import certificates  # noqa: PLC0415  start-up time

    certificates.show(_chosen(context, config), serial=serial, json=json)


@cert.command("revoke")
def cert_revoke(
    context: typer.Context,
    serial: Annotated[str, typer.Argument(metavar="SERIAL", help="The serial number in hexadecimal.")],
    reason: Annotated[
        str,
        typer.Option(
            "--reason",
            metavar="WORD",
            help="`unspecified` (the default), `keyCompromise`, `affiliationChanged`, `superseded`,"
            " `cessationOfOperation` or `privilegeWithdrawn`.",
        ),
    ] = "unspecified",
    local: Annotated[
        bool, typer.Option("--local", help="Revoke it here only: its issuer is not asked, or not any more.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Revoke a certificate, whoever issued it.

    One of our own CA is on its next CRL. One of a CA elsewhere is revoked there by the running daemon, however often
    it has to ask; once refused there, the same command asks again.
    """
    from cmpd.cli import certificates  # noqa: PLC0415  start-up time

    certificates.revoke(_chosen(context, config), serial=serial, reason=reason, local=local, yes=yes, json=json)


class By(enum.StrEnum):
    """What a service user's certificate is known by."""

    fingerprint = "fingerprint"
    name = "name"


ServiceUser = Annotated[
    str, typer.Argument(metavar="NAME", help="The service user's name, as in enrollment.service_user of profiles.")
]
Certificates = Annotated[
    list[Path] | None,
    typer.Option("--certificate", metavar="PEM", help="A file with the client's certificate; repeatable."),
]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", metavar="HEX", help="The SHA-256 of the certificate; colons are allowed.")
]
IssuerName = Annotated[
    str | None,
    typer.Option("--issuer", metavar="DN", help="With --subject: who issued it, such as CN=Example CA,O=Example."),
]
SubjectName = Annotated[
    str | None, typer.Option("--subject", metavar="DN", help="With --issuer: whom the certificate names.")
]


@service_user.command("add")
def service_user_add(
    context: typer.Context,
    name: ServiceUser,
    certificate: Certificates = None,
    by: Annotated[
        By, typer.Option("--by", metavar="fingerprint|name", help="name: issuer and subject, so that renewals count.")
    ] = By.fingerprint,
    fingerprint: Fingerprint = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="TEXT", help="For people; else the certificate's subject.")
    ] = None,
    issuer: IssuerName = None,
    subject: SubjectName = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Add a certificate to a service user. It counts at once, in the running daemon too."""
    from cmpd.cli import service_users  # noqa: PLC0415  start-up time

    service_users.add(
        _chosen(context, config),
        name,
        certificates=certificate or [],
        by=by.value,
        fingerprint=fingerprint,
        label=label,
        issuer=issuer,
        subject=subject,
        json=json,
    )


@service_user.command("list")
def service_user_list(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only the certificates of this service user.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List the certificates of service users."""
    from cmpd.cli import service_users  # noqa: PLC0415  start-up time

    service_users.show_all(_chosen(context, config), name=name, json=json)


@service_user.command("remove")
def service_user_remove(
    context: typer.Context,
    name: ServiceUser,
    certificate: Certificates = None,
    fingerprint: Fingerprint = None,
    issuer: IssuerName = None,
    subject: SubjectName = None,
    everything: Annotated[bool, typer.Option("--all", help="All of its certificates.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take a certificate from a service user. It counts at once, in the running daemon too."""
    from cmpd.cli import service_users  # noqa: PLC0415  start-up time

    service_users.remove(
        _chosen(context, config),
        name,
        certificates=certificate or [],
        fingerprint=fingerprint,
        issuer=issuer,
        subject=subject,
        everything=everything,
        json=json,
    )


Serial = Annotated[
    str, typer.Argument(metavar="SERIAL", help="The device's serial number, as its maker's certificate has it.")
]


@device.command("add")
def device_add(
    context: typer.Context,
    serial: Serial,
    profile: Profile,
    seat: Annotated[
        str | None, typer.Option("--seat", metavar="SEAT", help="Whom its certificates are for; else its serial.")
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option("--subject", metavar="DN", help="The subject of its certificates; else what the profile says."),
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Let a device enroll, or change its seat and subject. It counts at once, in the running daemon too."""
    from cmpd.cli import devices  # noqa: PLC0415  start-up time

    devices.add(_chosen(context, config), serial, profile=profile, seat=seat, subject=subject, json=json)


@device.command("import")
def device_import(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A CSV with a header line: columns serial, if wanted seat, subject."),
    ],
    profile: Profile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only see whether all lines are right.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Let the devices of a CSV enroll: all, or none and every wrong line is named."""
    from cmpd.cli import devices  # noqa: PLC0415  start-up time

    devices.import_file(_chosen(context, config), file, profile=profile, dry_run=dry_run, json=json)


@device.command("list")
def device_list(
    context: typer.Context,
    profile: Profile,
    limit: Limit = 100,
    config: Config = None,
    json: Json = False,
) -> None:
    """List the devices that a profile knows, by serial number."""
    from cmpd.cli import devices  # noqa: PLC0415  start-up time

    devices.show_all(_chosen(context, config), profile=profile, limit=limit, json=json)


@device.command("remove")
def device_remove(
    context: typer.Context,
    serial: Serial,
    profile: Profile,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take a device from the list; certificates that it has stay valid."""
    from cmpd.cli import devices  # noqa: PLC0415  start-up time

    devices.remove(_chosen(context, config), serial, profile=profile, json=json)


Stamp = Annotated[
    str, typer.Argument(metavar="STAMP", help="The order's stamp, or as much of its beginning as no other one has.")
]


@order.command("list")
def order_list(
    context: typer.Context,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only `intended`, `submitting`, `unknown`, `ordered`, `held`, `issued` or `failed` ones; repeatable.",
        ),
    ] = None,
    profile: OfProfile = None,
    issuer: Annotated[str | None, typer.Option("--issuer", metavar="NAME", help="Only those at this issuer.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is issued or has failed.")] = False,
    limit: Limit = 100,
    config: Config = None,
    json: Json = False,
) -> None:
    """List what waits, is held or is unknown, newest first."""
    from cmpd.cli import orders  # noqa: PLC0415  start-up time

    orders.show_all(
        _chosen(context, config),
        states=state or [],
        profile=profile,
        issuer=issuer,
        everything=everything,
        limit=limit,
        json=json,
    )


@order.command("show")
def order_show(context: typer.Context, stamp: Stamp, config: Config = None, json: Json = False) -> None:
    """Show all of an order, and what can be done about it now."""
    from cmpd.cli import orders  # noqa: PLC0415  start-up time

    orders.show(_chosen(context, config), stamp, json=json)


@order.command("release")
def order_release(
    context: typer.Context,
    stamp: Stamp,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it may be bought twice.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Submit a held or unknown order again.

    One that the issuer has is only looked at again.
    """
    from cmpd.cli import orders  # noqa: PLC0415  start-up time

    orders.release(_chosen(context, config), stamp, yes=yes, json=json)


@order.command("adopt")
def order_adopt(
    context: typer.Context,
    stamp: Stamp,
    ticket: Annotated[
        str, typer.Argument(metavar="TICKET", help="The issuer's name for it, such as its order number.")
    ],
    config: Config = None,
    json: Json = False,
) -> None:
    """Say under which name the issuer has an order."""
    from cmpd.cli import orders  # noqa: PLC0415  start-up time

    orders.adopt(_chosen(context, config), stamp, ticket, json=json)


@order.command("cancel")
def order_cancel(
    context: typer.Context,
    stamp: Stamp,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="What the client is told when it asks again.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Leave it as it is at the issuer; it may be paid for all the same.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Withdraw an order from its issuer, and give it up.

    The client is told the reason when it asks again.
    """
    from cmpd.cli import orders  # noqa: PLC0415  start-up time

    orders.cancel(_chosen(context, config), stamp, reason=reason, local=local, json=json)


@order.command("approve")
def order_approve(context: typer.Context, stamp: Stamp, config: Config = None, json: Json = False) -> None:
    """Approve an order at its issuer, where it offers that."""
    from cmpd.cli import orders  # noqa: PLC0415  start-up time

    orders.approve(_chosen(context, config), stamp, json=json)


@node.command("list")
def node_list(context: typer.Context, config: Config = None, json: Json = False) -> None:
    """List the processes on the store, what each sees to, and whether their configurations are the same."""
    from cmpd.cli import processes  # noqa: PLC0415  start-up time

    processes.show_all(_chosen(context, config), json=json)


BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="The backup: one file, whatever the store.")]


@store_commands.command("status")
def store_status(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Read all of it to see whether it is sound; takes time.")
    ] = True,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show which store it is and how it is. Exit status 1 when something is wrong."""
    from cmpd.cli import store  # noqa: PLC0415  start-up time

    store.status(_chosen(context, config), check=check, json=json)


@store_commands.command("migrate")
def store_migrate(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Bring the schema up to date, as `serve` does by itself; make the store if there is none."""
    from cmpd.cli import store  # noqa: PLC0415  start-up time

    store.migrate(_chosen(context, config), dry_run=dry_run, json=json)


@store_commands.command("backup")
def store_backup(context: typer.Context, file: BackupFile, config: Config = None, json: Json = False) -> None:
    """Write a backup to a new file, consistent while daemons write."""
    from cmpd.cli import store  # noqa: PLC0415  start-up time

    store.backup(_chosen(context, config), file, json=json)


@store_commands.command("restore")
def store_restore(
    context: typer.Context,
    file: BackupFile,
    force: Annotated[bool, typer.Option("--force", help="Also into a store that has something in it.")] = False,
    revoke_codes: Annotated[
        bool,
        typer.Option(
            "--revoke-codes",
            help="Revoke all enrollment codes that are still good: those used after the backup would be good again.",
        ),
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make the store what a backup has. Daemons must be stopped."""
    from cmpd.cli import store  # noqa: PLC0415  start-up time

    store.restore(_chosen(context, config), file, force=force, revoke_codes=revoke_codes, json=json)


@store_commands.command("copy")
def store_copy(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The store to fill, an empty one, as in [store] url.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="The store to copy; else that of the configuration.")
    ] = None,
    allow_running: Annotated[
        bool,
        typer.Option(
            "--allow-running", help="Copy while daemons serve; to be finished by the same command without this."
        ),
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Copy everything into another store, of whatever kind, and compare. Cut off, the same command goes on."""
    from cmpd.cli import store  # noqa: PLC0415  start-up time

    store.copy(_chosen(context, config), to=to, source=source, allow_running=allow_running, json=json)


@store_commands.command("stats")
def store_stats(context: typer.Context, config: Config = None, json: Json = False) -> None:
    """Show how large the tables are, how they grow, and what will be deleted."""
    from cmpd.cli import store  # noqa: PLC0415  start-up time

    store.stats(_chosen(context, config), json=json)
