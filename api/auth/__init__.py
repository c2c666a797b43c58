"""The sender of a request and its rights: tokens, sessions, proxies, login, audit."""
