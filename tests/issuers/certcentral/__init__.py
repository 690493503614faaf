"""The lower half of the CertCentral issuer against the simulator."""
