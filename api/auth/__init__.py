"""The users of requests and their roles: tokens, sessions, proxies, login, audit."""
