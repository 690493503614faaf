"""What the linter notes of certificates that are as they should be."""

NOTED = {
    # subjectKeyIdentifier by RFC 7093, not by SHA-1
    "pkix.subject_key_identifier_rfc7093_method_1_identified",
}
TLS_NOTED = NOTED | {
    # both are NOT RECOMMENDED by TLS BR §7.1.2.7.6 and §7.1.4.3, and clients want them
    "cabf.serverauth.subscriber.subject_key_identifier_extension_present",
    "cabf.serverauth.dv.common_name_attribute_present",
    "cabf.serverauth.iv.common_name_attribute_present",
    "cabf.serverauth.ov.common_name_attribute_present",
}
