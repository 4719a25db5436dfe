"""URLs that no request may come of."""

from __future__ import annotations

#: invalid_url; the last two may be dns_not_found as well
BAD_URLS = (
    *(None, "", " ", "picture.jpg", "//files.hostile.test/a.jpg", "http://", "http:///a.jpg", "http://[::1/a.jpg"),
    *("ftp://files.hostile.test/a.jpg", "file:///etc/passwd", "data:image/png;base64,AAAA", "javascript:alert(1)"),
    *("http://files.hostile.test:99999/a.jpg", "http://files.hostile.test:port/a.jpg", "http://a b/a.jpg"),
    *("http://files.hostile.test\x00.jpg", "http://.../a.jpg", f"http://{'a' * 64}.hostile.test/a.jpg"),
    f"http://{'a.' * 200}test/a.jpg",
)

#: private_address: what is no server's of the open web, and IPv6 that wraps such an IPv4
PRIVATE_ADDRESSES = (
    *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "0.0.0.0", "127.0.0.2"),
    *("192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::", "fe80::1", "fc00::1", "fd00::1", "ff02::1", "2001:db8::1"),
    *("::ffff:10.0.0.1", "::ffff:127.0.0.2", "64:ff9b::10.0.0.1", "2002:a00:1::"),
)
PRIVATE_URLS = tuple(f"http://{f'[{one}]' if ':' in one else one}/a.jpg" for one in PRIVATE_ADDRESSES)

#: 10.0.0.1 and 127.0.0.2 as only the libraries of C read them: private_address, invalid_url or dns_not_found
ODD_URLS = tuple(
    f"http://{one}/a.jpg" for one in ("167772161", "0x0a000001", "012.0.0.1", "10.1", "127.2", "2130706434")
)
