"""Framehaul's fleet: one address for the servers of many hosts. Composed of server and client; imports both."""
