"""cmpd: a standalone CMP server daemon (RFC 9810, RFC 9483, RFC 9811)."""
