"""Any PKIMessage as people read it: `describe` as a tree for JSON, `render` as lines.

Whatever cannot be read is said where it stands and stops nothing. Public keys are named, and of secrets (encrypted
keys, regToken, challengePassword, popdecr) only the presence. Every text from the wire is escaped.
"""

from collections.abc import Callable, Iterable, Sequence

from cryptography.hazmat.asn1 import TLV, BitString, Null
from cryptography.x509 import ObjectIdentifier

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import (
    AlgorithmIdentifier,
    DHBMParameter,
    KemBMParameter,
    PBKDF2_params,
    PBMAC1_params,
    PBMParameter,
    RSASSA_PSS_params,
)
from cmpd.asn1.cmp import (
    BodyType,
    CAKeyUpdAnnContent,
    CertifiedKeyPair,
    CertRepMessage,
    CertResponse,
    CertStatus,
    Challenge,
    ErrorMsgContent,
    InfoTypeAndValue,
    KemCiphertextInfo,
    KeyRecRepContent,
    PKIHeader,
    PKIStatusInfo,
    PollRep,
    PollReq,
    RevAnnContent,
    RevDetails,
    RevRepContent,
    RootCaKeyUpdateContent,
)
from cmpd.asn1.codec import DECODE_ERRORS, parse, raw, reason
from cmpd.asn1.crmf import (
    AttributeTypeAndValue,
    CertId,
    CertReqMsg,
    CertRequest,
    CertTemplate,
    PKMACValue,
    POPOSigningKey,
)
from cmpd.asn1.der import MalformedError
from cmpd.asn1.message import PKIMessage, decode
from cmpd.asn1.names import general_name_text, name_text, printable, text_of
from cmpd.asn1.pkix import CertificationRequest, CertificationRequestInfo, Extension, SubjectPublicKeyInfo
from cmpd.asn1.status import PKIFailureInfo, PKIStatus
from cmpd.asn1.times import read_time

MAX_DEPTH = 3
"""How deep messages in `nested` are shown."""
MAX_OCTETS = 64
"""How many octets of something unknown are shown."""

Tree = dict[str, object]

_VERSIONS = {1: "cmp1999", 2: "cmp2000", 3: "cmp2021"}
_KEY_USAGES = (
    "digitalSignature",
    "contentCommitment",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
)
_POP_PRIV_KEY = {
    0x80: "thisMessage",
    0x81: "subsequentMessage",
    0x82: "dhMAC",
    0xA3: "agreeMAC",
    0xA4: "encryptedKey",
}
_SUBSEQUENT = {0: "encrCert", 1: "challengeResp"}
_REASONS = (
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "certificateHold",
    "",
    "removeFromCRL",
    "privilegeWithdrawn",
    "aACompromise",
)
_SECRET = frozenset(
    {
        oids.REG_CTRL_REG_TOKEN,
        oids.REG_CTRL_AUTHENTICATOR,
        oids.REG_CTRL_PKI_ARCHIVE_OPTIONS,
        oids.REV_PASSPHRASE,
        oids.CHALLENGE_PASSWORD,
    }
)


def render(message: PKIMessage) -> list[str]:
    """Show a message as lines of text, indented by two spaces a level; never raises."""
    return list(tree_lines(describe(message), ""))


def describe(message: PKIMessage, depth: int = 0) -> Tree:
    """Show a message as a tree of dict, list, str, int and bool, fit for JSON; never raises."""
    tree: Tree = {"message": message.body_type.name, "octets": len(message.der)}
    if message.was_ber:
        tree["encoding"] = "BER, normalised to DER"
    tree["header"] = _header(message.header)
    tree["body"] = _guarded(lambda: _body(message, depth))
    if message.protection is None:
        tree["protection"] = "none"
    else:
        tree["protection"] = f"{len(message.protection)} octets"
    if message.extraCerts:
        tree["extraCerts"] = [_certificate(one) for one in message.extraCerts]
    return tree


def tree_lines(value: object, indent: str = "") -> Iterable[str]:
    """Show a tree as lines, indented by two spaces a level."""
    entries: Iterable[tuple[str, object]]
    if isinstance(value, dict):
        entries = ((f"{key}:", one) for key, one in value.items())
    elif isinstance(value, list):
        entries = (("-", one) for one in value)
    else:
        yield f"{indent}{value}"
        return
    for label, one in entries:
        if isinstance(one, dict | list):
            inner = list(tree_lines(one, indent + "  "))
            if not inner:
                yield f"{indent}{label} (empty)"
            elif label == "-":  # the first entry of a list element stands beside its dash
                yield f"{indent}- {inner[0].lstrip()}"
                yield from inner[1:]
            else:
                yield f"{indent}{label}"
                yield from inner
        else:
            yield f"{indent}{label} {one}"


def _guarded(show: Callable[[], object]) -> object:
    try:
        return show()
    except DECODE_ERRORS as exc:
        return f"(malformed: {printable(reason(exc))})"


def _hex(value: bytes) -> str:
    return value.hex() if len(value) <= MAX_OCTETS else f"{value[:MAX_OCTETS].hex()}… ({len(value)} octets)"


def _present(tree: Tree) -> Tree:
    return {key: one for key, one in tree.items() if one is not None}


def _texts(values: Sequence[str] | None) -> list[object] | None:
    return None if values is None else [printable(one) for one in values]


# ── header ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _header(header: PKIHeader) -> Tree:
    return _present(
        {
            "pvno": f"{header.pvno} ({_VERSIONS.get(header.pvno, 'unknown')})",
            "sender": _general_name(header.sender),
            "recipient": _general_name(header.recipient),
            "messageTime": _time(header.messageTime),
            "protectionAlg": None if header.protectionAlg is None else _algorithm(header.protectionAlg),
            "senderKID": _key_identifier(header.senderKID),
            "recipKID": _key_identifier(header.recipKID),
            "transactionID": None if header.transactionID is None else _hex(header.transactionID),
            "senderNonce": None if header.senderNonce is None else _hex(header.senderNonce),
            "recipNonce": None if header.recipNonce is None else _hex(header.recipNonce),
            "freeText": _texts(header.freeText),
            "generalInfo": None if header.generalInfo is None else [_info(one) for one in header.generalInfo],
        }
    )


def _general_name(value: TLV) -> object:
    text = _guarded(lambda: general_name_text(raw(value)))
    return "NULL-DN" if text == "directoryName:" else text


def _key_identifier(value: bytes | None) -> str | None:
    if value is None:
        return None
    if value and value.isascii() and value.decode("ascii").isprintable():
        return f'{_hex(value)} "{value[:MAX_OCTETS].decode("ascii")}"'
    return _hex(value)


def _time(value: TLV | Null | None) -> object:
    if value is None:
        return None
    return _guarded(lambda: f"{read_time(raw(value)):%Y-%m-%dT%H:%M:%SZ}")


def _algorithm(value: AlgorithmIdentifier) -> object:
    name = oids.name(value.algorithm)
    if value.parameters is None:
        return name
    encoded = raw(value.parameters)
    if encoded == der.null():
        return name
    return {"algorithm": name, "parameters": _guarded(lambda: _parameters(value.algorithm, encoded))}


def _parameters(algorithm: ObjectIdentifier, encoded: bytes) -> object:
    if algorithm == oids.PASSWORD_BASED_MAC:
        pbm = parse(PBMParameter, encoded)
        return {
            "salt": _hex(pbm.salt),
            "owf": _algorithm(pbm.owf),
            "iterationCount": _number(pbm.iterationCount),
            "mac": _algorithm(pbm.mac),
        }
    if algorithm == oids.PBMAC1:
        pbmac1 = parse(PBMAC1_params, encoded)
        return {
            "keyDerivationFunc": _algorithm(pbmac1.keyDerivationFunc),
            "messageAuthScheme": _algorithm(pbmac1.messageAuthScheme),
        }
    if algorithm == oids.PBKDF2:
        pbkdf2 = parse(PBKDF2_params, encoded)
        return _present(
            {
                "salt": _hex(pbkdf2.salt) if isinstance(pbkdf2.salt, bytes) else _algorithm(pbkdf2.salt),
                "iterationCount": _number(pbkdf2.iterationCount),
                "keyLength": None if pbkdf2.keyLength is None else _number(pbkdf2.keyLength),
                "prf": "hmacWithSHA1 (default)" if pbkdf2.prf is None else _algorithm(pbkdf2.prf),
            }
        )
    if algorithm == oids.RSASSA_PSS:
        pss = parse(RSASSA_PSS_params, encoded)
        return {
            "hashAlgorithm": "sha1 (default)" if pss.hashAlgorithm is None else _algorithm(pss.hashAlgorithm),
            "maskGenAlgorithm": "mgf1 with sha1 (default)"
            if pss.maskGenAlgorithm is None
            else _algorithm(pss.maskGenAlgorithm),
            "saltLength": "20 (default)" if pss.saltLength is None else _number(pss.saltLength),
        }
    if algorithm == oids.MGF1:
        return _algorithm(parse(AlgorithmIdentifier, encoded))
    if algorithm == oids.DH_BASED_MAC:
        dhbm = parse(DHBMParameter, encoded)
        return {"owf": _algorithm(dhbm.owf), "mac": _algorithm(dhbm.mac)}
    if algorithm == oids.KEM_BASED_MAC:
        kem = parse(KemBMParameter, encoded)
        return {"kdf": _algorithm(kem.kdf), "len": _number(kem.len), "mac": _algorithm(kem.mac)}
    if encoded[0] == der.OBJECT_IDENTIFIER:
        return oids.name(parse(ObjectIdentifier, encoded))
    return _hex(encoded)


def _number(value: int) -> str:
    """Show an INTEGER; one of more than 64 bits, where Python's decimal conversion may refuse, in hexadecimal."""
    return str(value) if value.bit_length() <= 64 else _long(value)


def _long(value: int) -> str:
    return ("-" if value < 0 else "") + _hex(abs(value).to_bytes((value.bit_length() + 7) // 8 or 1, "big"))


def _info(value: InfoTypeAndValue) -> Tree:
    name = oids.name(value.infoType)
    if value.infoValue is None:
        return {name: "(no value)"}
    encoded = raw(value.infoValue)
    if value.infoType in _SECRET:
        return {name: _hidden(encoded)}
    return {name: _guarded(lambda: _info_value(value.infoType, encoded))}


def _info_value(kind: ObjectIdentifier, encoded: bytes) -> object:
    if encoded == der.null():
        return "NULL"
    if kind == oids.CONFIRM_WAIT_TIME:
        return f"{read_time(encoded):%Y-%m-%dT%H:%M:%SZ}"
    if kind in {oids.CA_PROT_ENC_CERT, oids.ROOT_CA_CERT}:
        return _certificate(encoded)
    if kind == oids.CA_CERTS:
        return [_certificate(one) for one in der.children(encoded)]
    if kind == oids.ROOT_CA_KEY_UPDATE:
        return _root_ca_key_update(parse(RootCaKeyUpdateContent, encoded))
    if kind in {oids.CURRENT_CRL, oids.CRLS}:
        return f"{len(encoded)} octets"
    if kind == oids.KEM_CIPHERTEXT_INFO:
        kem = parse(KemCiphertextInfo, encoded)
        return {"kem": _algorithm(kem.kem), "ct": _hex(kem.ct)}
    if kind in {oids.SIGN_KEY_PAIR_TYPES, oids.ENC_KEY_PAIR_TYPES}:
        return [_algorithm(parse(AlgorithmIdentifier, one)) for one in der.children(encoded)]
    if kind in {oids.PREFERRED_SYMM_ALG, oids.KEY_PAIR_PARAM_REP}:
        return _algorithm(parse(AlgorithmIdentifier, encoded))
    if kind == oids.ORIG_PKI_MESSAGE:
        return f"{len(der.children(encoded))} messages, {len(encoded)} octets"
    return _any(encoded)


def _any(encoded: bytes) -> object:
    """Show a value whose type is not known here: a string, a list of strings, a number, an OID, or octets."""
    tag, start, end = der.read(encoded)
    text = text_of(tag, encoded[start:end])
    if text is not None:
        return printable(text)
    if tag == der.OBJECT_IDENTIFIER:
        return oids.name(parse(ObjectIdentifier, encoded))
    if tag == der.INTEGER:
        return _number(parse(int, encoded))
    if tag == der.SEQUENCE:
        inside = der.children(encoded)
        if inside and all(one[0] == der.UTF8_STRING for one in inside):
            return [_any(one) for one in inside]
    return _hex(encoded)


def _hidden(encoded: bytes) -> str:
    return f"(not shown, {len(encoded)} octets)"


# ── bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _body(message: PKIMessage, depth: int) -> object:
    content = message.decode_body()
    match message.body_type:
        case BodyType.ir | BodyType.cr | BodyType.kur | BodyType.krr | BodyType.ccr:
            return [_cert_req_msg(one) for one in content]
        case BodyType.ip | BodyType.cp | BodyType.kup | BodyType.ccp:
            return _cert_rep_message(content)
        case BodyType.p10cr:
            return _certification_request(content)
        case BodyType.popdecc:
            return [_challenge(one) for one in content]
        case BodyType.popdecr:
            return f"{len(content)} answers (not shown)"
        case BodyType.krp:
            return _key_rec_rep_content(content)
        case BodyType.rr:
            return [_rev_details(one) for one in content]
        case BodyType.rp:
            return _rev_rep_content(content)
        case BodyType.ckuann:
            return _ca_key_update(content)
        case BodyType.cann:
            return _certificate(content)
        case BodyType.rann:
            return _rev_ann_content(content)
        case BodyType.crlann:
            return [f"CRL, {len(one)} octets" for one in content]
        case BodyType.pkiconf:
            return "NULL"
        case BodyType.nested:
            return [_nested(message, one, depth) for one in content]
        case BodyType.genm | BodyType.genp:
            return [_info(one) for one in content]
        case BodyType.error:
            return _error(content)
        case BodyType.certConf:
            return [_cert_status(one) for one in content]
        case BodyType.pollReq:
            return [_poll_req(one) for one in content]
        case BodyType.pollRep:
            return [_poll_rep(one) for one in content]


def _nested(message: PKIMessage, encoded: bytes, depth: int) -> object:
    if depth >= MAX_DEPTH:
        return f"message, {len(encoded)} octets, nested too deep to be shown"
    return _guarded(lambda: describe(decode(encoded, message.limits), depth + 1))


def _cert_req_msg(message: CertReqMsg) -> Tree:
    request = parse(CertRequest, raw(message.certReq))
    popo = message.popo
    return _present(
        {
            "certReqId": _number(request.certReqId),
            "certTemplate": _template(request.certTemplate),
            "controls": None if request.controls is None else [_control(one) for one in request.controls],
            "popo": None if popo is None else _popo(popo.tag, popo.value),
            "regInfo": None if message.regInfo is None else [_control(one) for one in message.regInfo],
        }
    )


def _popo(kind: str, value: object) -> object:
    if isinstance(value, POPOSigningKey):
        tree: Tree = {"algorithm": _algorithm(value.algorithmIdentifier)}
        if value.poposkInput is not None:
            auth_info = raw(value.poposkInput.authInfo)
            tree["poposkInput"] = {
                "authInfo": _guarded(lambda: _auth_info(auth_info)),
                "publicKey": _public_key(value.poposkInput.publicKey),
            }
        tree["signature"] = f"{len(value.signature.as_bytes())} octets"
        return {kind: tree}
    if isinstance(value, TLV):
        return {kind: _guarded(lambda: _popo_priv_key(raw(value)))}
    return kind


def _auth_info(encoded: bytes) -> object:
    if encoded[0] == 0xA0:
        inside = der.children(encoded, 1)
        if not inside:
            raise MalformedError("sender: empty")
        return general_name_text(inside[0])
    return {"publicKeyMAC": _algorithm(parse(PKMACValue, encoded).algId)}


def _popo_priv_key(encoded: bytes) -> object:
    tag, start, end = der.read(encoded)
    kind = _POP_PRIV_KEY.get(tag)
    if kind is None:
        raise MalformedError("not a POPOPrivKey")
    if kind == "subsequentMessage":
        number = int.from_bytes(encoded[start:end][:8], "big")
        return f"{kind}: {_SUBSEQUENT.get(number, number)}"
    return f"{kind} {_hidden(encoded)}"


def _template(template: CertTemplate) -> Tree:
    validity = template.validity
    return _present(
        {
            "version": None if template.version is None else _number(template.version),
            "serialNumber": None if template.serialNumber is None else _long(template.serialNumber),
            "signingAlg": None if template.signingAlg is None else _algorithm(template.signingAlg),
            "issuer": _name(template.issuer),
            "validity": None
            if validity is None
            else _present({"notBefore": _time(validity.notBefore), "notAfter": _time(validity.notAfter)}),
            "subject": _name(template.subject),
            "publicKey": None if template.publicKey is None else _public_key(template.publicKey),
            "issuerUID": None if template.issuerUID is None else _hex(template.issuerUID.as_bytes()),
            "subjectUID": None if template.subjectUID is None else _hex(template.subjectUID.as_bytes()),
            "extensions": None if template.extensions is None else _extensions(template.extensions),
        }
    )


def _name(value: TLV | Null | None) -> object:
    if value is None:
        return None
    return _guarded(lambda: name_text(raw(value)) or "NULL-DN")


def _public_key(value: SubjectPublicKeyInfo) -> object:
    return _guarded(lambda: public_key_text(value))


def public_key_text(value: SubjectPublicKeyInfo) -> str:
    """Name a public key by type and size or curve: `RSA 3072`, `EC P-256`, `Ed25519`. Raises MalformedError."""
    algorithm = value.algorithm.algorithm
    octets = value.subjectPublicKey.as_bytes()
    if not octets:
        return f"{oids.name(algorithm)} (no key, to be generated centrally)"
    if algorithm == oids.RSA_ENCRYPTION:
        modulus = der.children(octets, 2)[:1]
        return f"RSA {parse(int, modulus[0]).bit_length()}" if modulus else "RSA"
    if algorithm == oids.EC_PUBLIC_KEY:
        parameters = value.algorithm.parameters
        encoded = b"" if parameters is None else raw(parameters)
        if encoded[:1] != b"\x06":
            return "EC, unnamed curve"
        return f"EC {oids.name(parse(ObjectIdentifier, encoded))}"
    return oids.name(algorithm)


def _control(value: AttributeTypeAndValue) -> Tree:
    name = oids.name(value.type)
    encoded = raw(value.value)
    if value.type in _SECRET:
        return {name: _hidden(encoded)}
    if value.type == oids.REG_CTRL_OLD_CERT_ID:
        return {name: _guarded(lambda: _cert_id(parse(CertId, encoded)))}
    if value.type == oids.REG_CTRL_PROTOCOL_ENCR_KEY:
        return {name: _guarded(lambda: public_key_text(parse(SubjectPublicKeyInfo, encoded)))}
    if value.type == oids.REG_CTRL_ALG_ID:
        return {name: _guarded(lambda: _algorithm(parse(AlgorithmIdentifier, encoded)))}
    return {name: _guarded(lambda: _any(encoded))}


def _cert_id(value: CertId) -> Tree:
    return {"issuer": _general_name(value.issuer), "serialNumber": _long(value.serialNumber)}


def _cert_rep_message(value: CertRepMessage) -> Tree:
    return _present(
        {
            "caPubs": None if value.caPubs is None else [_certificate(raw(one)) for one in value.caPubs],
            "response": [_cert_response(one) for one in value.response],
        }
    )


def _cert_response(value: CertResponse) -> Tree:
    pair = value.certifiedKeyPair
    return _present(
        {
            "certReqId": _number(value.certReqId),
            "status": _status_info(value.status),
            "certifiedKeyPair": None if pair is None else _certified_key_pair(pair),
            "rspInfo": None if value.rspInfo is None else _hex(value.rspInfo),
        }
    )


def _certified_key_pair(value: CertifiedKeyPair) -> Tree:
    encoded = raw(value.certOrEncCert)
    return _present(
        {
            "certOrEncCert": _guarded(lambda: _cert_or_enc_cert(encoded)),
            "privateKey": None if value.privateKey is None else f"encrypted {_hidden(raw(value.privateKey))}",
            "publicationInfo": None if value.publicationInfo is None else _number(value.publicationInfo.action),
        }
    )


def _cert_or_enc_cert(encoded: bytes) -> object:
    inside = der.children(encoded, 1)
    if encoded[0] == 0xA0 and inside:
        return {"certificate": _certificate(inside[0])}
    return f"encryptedCert {_hidden(encoded)}"


def _status_info(value: PKIStatusInfo) -> Tree:
    try:
        status = PKIStatus(value.status).name
    except ValueError:
        status = f"unknown ({_number(value.status)})"
    return _present(
        {
            "status": status,
            "statusString": _texts(value.statusString),
            "failInfo": None if value.failInfo is None else _fail_info(value.failInfo),
        }
    )


def _bits(value: BitString) -> list[int]:
    octets = value.as_bytes()[:MAX_OCTETS]
    return [number for number in range(len(octets) * 8) if octets[number // 8] & 0x80 >> number % 8]


def _fail_info(value: BitString) -> str:
    known = {one.value: one.name for one in PKIFailureInfo}
    return ", ".join(known.get(number, f"bit {number}") for number in _bits(value)) or "(no bit set)"


def _certification_request(value: CertificationRequest) -> Tree:
    info = parse(CertificationRequestInfo, raw(value.certificationRequestInfo))
    return _present(
        {
            "version": _number(info.version),
            "subject": _name(info.subject),
            "publicKey": _public_key(info.subjectPKInfo),
            "attributes": [_attribute(one.type, raw(one.values)) for one in info.attributes or ()],
            "signatureAlgorithm": _algorithm(value.signatureAlgorithm),
            "signature": f"{len(value.signature.as_bytes())} octets",
        }
    )


def _attribute(kind: ObjectIdentifier, values: bytes) -> Tree:
    name = oids.name(kind)
    if kind in _SECRET:
        return {name: _hidden(values)}
    if kind in {oids.EXTENSION_REQUEST, oids.MS_EXTENSION_REQUEST}:
        return {name: _guarded(lambda: _requested(values))}
    return {name: _guarded(lambda: [_any(one) for one in der.children(values)])}


def _requested(values: bytes) -> object:
    return _extensions([parse(Extension, one) for many in der.children(values) for one in der.children(many)])


def _challenge(value: Challenge) -> Tree:
    return _present(
        {
            "owf": None if value.owf is None else _algorithm(value.owf),
            "witness": _hex(value.witness),
            "challenge": f"{len(value.challenge)} octets",
            "encryptedRand": None if value.encryptedRand is None else _hidden(raw(value.encryptedRand)),
        }
    )


def _key_rec_rep_content(value: KeyRecRepContent) -> Tree:
    return _present(
        {
            "status": _status_info(value.status),
            "newSigCert": None if value.newSigCert is None else _certificate(raw(value.newSigCert)),
            "caCerts": None if value.caCerts is None else [_certificate(raw(one)) for one in value.caCerts],
            "keyPairHist": None
            if value.keyPairHist is None
            else [_certified_key_pair(one) for one in value.keyPairHist],
        }
    )


def _rev_details(value: RevDetails) -> Tree:
    return _present(
        {
            "certDetails": _template(value.certDetails),
            "crlEntryDetails": None if value.crlEntryDetails is None else _extensions(value.crlEntryDetails),
        }
    )


def _rev_rep_content(value: RevRepContent) -> Tree:
    return _present(
        {
            "status": [_status_info(one) for one in value.status],
            "revCerts": None if value.revCerts is None else [_cert_id(one) for one in value.revCerts],
            "crls": None if value.crls is None else [f"CRL, {len(raw(one))} octets" for one in value.crls],
        }
    )


def _ca_key_update(value: CAKeyUpdAnnContent | RootCaKeyUpdateContent) -> Tree:
    if isinstance(value, RootCaKeyUpdateContent):
        return _root_ca_key_update(value)
    return {
        "oldWithNew": _certificate(raw(value.oldWithNew)),
        "newWithOld": _certificate(raw(value.newWithOld)),
        "newWithNew": _certificate(raw(value.newWithNew)),
    }


def _root_ca_key_update(value: RootCaKeyUpdateContent) -> Tree:
    return _present(
        {
            "newWithNew": _certificate(raw(value.newWithNew)),
            "newWithOld": None if value.newWithOld is None else _certificate(raw(value.newWithOld)),
            "oldWithNew": None if value.oldWithNew is None else _certificate(raw(value.oldWithNew)),
        }
    )


def _rev_ann_content(value: RevAnnContent) -> Tree:
    return _present(
        {
            "status": _status_info(PKIStatusInfo(status=value.status))["status"],
            "certId": _cert_id(value.certId),
            "willBeRevokedAt": _time(value.willBeRevokedAt),
            "badSinceDate": _time(value.badSinceDate),
            "crlDetails": None if value.crlDetails is None else _extensions(value.crlDetails),
        }
    )


def _error(value: ErrorMsgContent) -> Tree:
    return _present(
        {
            "pKIStatusInfo": _status_info(value.pKIStatusInfo),
            "errorCode": None if value.errorCode is None else _number(value.errorCode),
            "errorDetails": _texts(value.errorDetails),
        }
    )


def _cert_status(value: CertStatus) -> Tree:
    return _present(
        {
            "certHash": _hex(value.certHash),
            "certReqId": _number(value.certReqId),
            "statusInfo": None if value.statusInfo is None else _status_info(value.statusInfo),
            "hashAlg": None if value.hashAlg is None else _algorithm(value.hashAlg),
        }
    )


def _poll_req(value: PollReq) -> Tree:
    return {"certReqId": _number(value.certReqId)}


def _poll_rep(value: PollRep) -> Tree:
    return _present(
        {
            "certReqId": _number(value.certReqId),
            "checkAfter": f"{_number(value.checkAfter)} s",
            "reason": _texts(value.reason),
        }
    )


# ── certificates and extensions ─────────────────────────────────────────────────────────────────────────────────────


def _certificate(encoded: bytes) -> object:
    shown = _guarded(lambda: certificate_tree(encoded))
    return shown if isinstance(shown, dict) else f"{shown}, {len(encoded)} octets"


def certificate_tree(encoded: bytes) -> Tree:
    """Show subject, issuer, serial number, validity and key of a certificate. Raises MalformedError."""
    outer = der.children(encoded, 3)
    fields = der.children(outer[0]) if outer else []
    if fields and fields[0][0] == 0xA0:
        fields = fields[1:]
    if len(fields) < 6:
        raise MalformedError("not a certificate")
    validity = der.children(fields[3], 2)
    if len(validity) != 2:
        raise MalformedError("not a certificate")
    return {
        "subject": name_text(fields[4]) or "NULL-DN",
        "issuer": name_text(fields[2]) or "NULL-DN",
        "serialNumber": _long(parse(int, fields[0])),
        "validity": " to ".join(f"{read_time(one):%Y-%m-%dT%H:%M:%SZ}" for one in validity),
        "publicKey": public_key_text(parse(SubjectPublicKeyInfo, fields[5])),
    }


def extensions_tree(encoded: bytes) -> list[object]:
    """Show the extensions of a certificate, one tree each. Raises MalformedError."""
    fields = der.children(der.children(encoded, 3)[0])
    found = next((der.children(field)[0] for field in fields if field[0] == 0xA3), None)
    return [] if found is None else _extensions([parse(Extension, one) for one in der.children(found)])


def _extensions(values: Sequence[Extension]) -> list[object]:
    return [_extension(one) for one in values]


def _extension(value: Extension) -> Tree:
    label = oids.name(value.extnID) + (" (critical)" if value.critical else "")
    return {label: _guarded(lambda: _extension_value(value.extnID, value.extnValue))}


def _extension_value(kind: ObjectIdentifier, encoded: bytes) -> object:
    if kind in {oids.SUBJECT_ALT_NAME, oids.ISSUER_ALT_NAME}:
        return [general_name_text(one) for one in der.children(encoded)]
    if kind == oids.KEY_USAGE:
        bits = _bits(parse(BitString, encoded))
        return ", ".join(_KEY_USAGES[one] if one < len(_KEY_USAGES) else f"bit {one}" for one in bits)
    if kind == oids.EXTENDED_KEY_USAGE:
        return ", ".join(oids.name(parse(ObjectIdentifier, one)) for one in der.children(encoded))
    if kind == oids.BASIC_CONSTRAINTS:
        inside = der.children(encoded, 2)
        is_ca = bool(inside) and inside[0] == der.boolean(True)
        length = [parse(int, one) for one in inside if one[0] == der.INTEGER]
        return f"CA:{str(is_ca).upper()}" + "".join(f", pathlen:{_number(one)}" for one in length)
    if kind == oids.SUBJECT_KEY_IDENTIFIER:
        return _hex(parse(bytes, encoded))
    if kind == oids.AUTHORITY_KEY_IDENTIFIER:
        return ", ".join(_hex(one[der.read(one)[1] :]) for one in der.children(encoded) if one[0] == 0x80)
    if kind == oids.CERTIFICATE_POLICIES:
        return ", ".join(oids.name(parse(ObjectIdentifier, der.children(one)[0])) for one in der.children(encoded))
    if kind == oids.CRL_REASON:
        number = int.from_bytes(der.content(encoded, 0x0A)[:2], "big")
        return _REASONS[number] if number < len(_REASONS) else str(number)
    if kind == oids.INVALIDITY_DATE:
        return f"{read_time(encoded):%Y-%m-%dT%H:%M:%SZ}"
    if kind == oids.AUTHORITY_INFO_ACCESS:
        pairs = [der.children(one, 2) for one in der.children(encoded)]
        return [
            f"{oids.name(parse(ObjectIdentifier, one[0]))} {general_name_text(one[1])}"
            for one in pairs
            if len(one) == 2
        ]
    return _hex(encoded)
