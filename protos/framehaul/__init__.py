"""The Framehaul protocol: generated stubs (`framehaul.v1`) and the payload codec that both of our ends use."""
