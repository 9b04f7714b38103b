"""Write tests/journeys/addresses.tsv and refused_addresses.tsv: addresses, and where a real browser would go.

    .venv/bin/python scripts/addresses.py

The addresses are made here, always the same ones; what they lead to is asked of a headless Chromium, which must be
installed. Our own parser has no say in it.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import unquote

FOLDER = Path(__file__).parent.parent / "tests" / "journeys"
ADDRESSES_FILE = FOLDER / "addresses.tsv"
REFUSED_FILE = FOLDER / "refused_addresses.tsv"
HOW_MANY = 1_000

_SHAPED = """
https://shop.example.com/p/blue-kettle-17l?sku=88213&ref=mail_2026_11&utm_source=newsletter&utm_medium=email
https://video.example.com/watch?v=dQx_9-LmW0c&list=PLa1-b2C3&index=4&t=1m32s
https://video.example.com/@cooking.channel/shorts/Ab-9_z
https://maps.example.com/maps/place/Z%C3%BCrich+HB/@47.3779,8.5403,17z/data=!3m1!4b1!4m5!3m4!1s0x47:0xfe!8m2!3d47.37!4d8.54
https://maps.example.com/?q=47.3779,8.5403&z=17&layers=transit,traffic
https://docs.example.com/document/d/1aB-cD_eF/edit?usp=sharing#heading=h.3x7k
https://docs.example.com/spreadsheets/d/e/2PACX-1v/pubhtml?gid=0&single=true#gid=0&range=A1:C9
https://drive.example.com/file/d/0B_9xYz/view?resourcekey=0-Ab
https://bucket.s3.eu-west-1.example.com/a/b%20c.pdf?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20261123%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=9f86d081884c7d659a2f
https://blob.example.net/container/report.csv?sv=2024-11-04&st=2026-11-23T10%3A00%3A00Z&se=2026-11-24T10%3A00%3A00Z&sr=b&sp=r&sig=Zm9v%2BYmFy%3D
https://login.example.com/oauth2/authorize?client_id=5f3&redirect_uri=https%3A%2F%2Fapp.example.org%2Fcallback%3Fa%3Db&response_type=code&scope=openid%20email+profile&state=x%7Cy
https://app.example.org/callback#access_token=eyJhbGciOi.eyJzdWIi.SflKx_w&token_type=bearer&expires_in=3600
https://web.archive.example.org/web/20260101000000/http://example.com/old/page?x=1
https://proxy.example.org/https://example.com//double//slash
https://translate.example.com/translate?sl=auto&tl=de&u=http://example.com/?a=1&b=2
https://en.encyclopedia.example/wiki/C++
https://en.encyclopedia.example/wiki/C_Sharp_(programming_language)
https://en.encyclopedia.example/wiki/AC/DC#Early_years_(1973–1979)
https://de.encyclopedia.example/wiki/Straße
https://ja.encyclopedia.example/wiki/日本語
https://ja.encyclopedia.example/wiki/%E6%97%A5%E6%9C%AC%E8%AA%9E#%E6%AD%B4%E5%8F%B2
https://ru.encyclopedia.example/wiki/Москва_(город)
https://ar.encyclopedia.example/wiki/القاهرة
https://he.encyclopedia.example/wiki/תל_אביב-יפו
https://th.encyclopedia.example/wiki/กรุงเทพมหานคร
https://hi.encyclopedia.example/wiki/नई_दिल्ली
https://el.encyclopedia.example/wiki/Αθήνα?action=history
https://vi.encyclopedia.example/wiki/Hà_Nội
https://ko.encyclopedia.example/wiki/서울특별시
https://code.example.com/org/repo/blob/main/src/lib.rs#L10-L20
https://code.example.com/org/repo/compare/v1.0.0...v1.1.0?expand=1
https://code.example.com/org/repo/issues?q=is%3Aissue+is%3Aopen+label%3A%22good+first+issue%22
https://code.example.com/org/repo/commit/0123456789abcdef^
https://code.example.com/org/repo/tree/feature/a~b/c
https://packages.example.com/package/@scope/name/v/1.2.3-rc.1+build.5
https://packages.example.com/@types%2fnode
https://forum.example.org/viewtopic.php?f=12&t=3456&p=78910&sid=&hilit=a+b#p78910
https://forum.example.org/index.php/topic,123.msg456.html
https://forum.example.org/showthread.php?123-A-title-with-words&highlight=
https://www.old-site.example/cgi-bin/search.cgi?name=J%F6rg&city=K%F6ln
https://www.old-site.example/~user/index.html
https://www.old-site.example/page.asp;jsessionid=0A1B2C?id=7
https://www.old-site.example/a;p=1;q=2/b;r=3
https://www.old-site.example/default.aspx?ReturnUrl=%2fsecure%2fPage.aspx
https://calendar.example.com/render?action=TEMPLATE&dates=20261123T100000Z/20261123T110000Z&text=Lunch%20%26%20learn
https://chat.example.com/send?phone=+4915112345678&text=Hi%20there%21%0AHow%20are%20you%3F
https://chat.example.com/send?text=👋🏽%20hello
https://social.example.com/intent/post?text=Look%3A&url=https://example.com/?a=b&via=me&hashtags=one,two
https://social.example.com/#!/user/status/123
https://spa.example.com/#/route/:id?tab=1&x=[1,2]
https://spa.example.com/?_escaped_fragment_=key=value
https://search.example.com/search?q="exact+phrase"&hl=en
https://search.example.com/search?q=a%2Bb%3Dc&tbs=qdr:w,sbd:1&start=10
https://search.example.com/search?q=what's+new%3f
https://search.example.com/search?q=site:example.com|site:example.org
https://api.example.com/v1/items?filter[name]=x&filter[price][gte]=10&sort=-created,name&page[size]=20
https://api.example.com/v1/items(12)/Name/$value?$select=a,b&$filter=Price%20gt%2010
https://api.example.com/graphql?query={me{name}}&variables={"a":1}
https://api.example.com/q?json=%7B%22a%22%3A%5B1%2C2%5D%7D
https://tiles.example.com/{z}/{x}/{y}.png?style=dark
https://img.example.com/w_300,h_200,c_fill/v1/a~b/photo@2x.jpg
https://img.example.com/resize/300x200/https%3A%2F%2Fexample.com%2Fa.png
https://news.example.com/2026/11/23/a-title-that-goes-on-and-on-and-on.html?fbclid=IwAR0-x_Y&gclid=Cj0K
https://news.example.com/article,123,title.html
https://survey.example.com/r/ABC123?c=[email_value]&id={{contact.id}}
https://survey.example.com/r/ABC?token=a.b.c==&x=y=z
https://mail.example.com/unsubscribe?u=3c59dc048e8850243be8079a5c74d079&e=name%40example.com&e2=name@example.com
https://tickets.example.com/browse/ABC-123?focusedCommentId=456&page=com.example:comment-tabpanel#comment-456
https://pay.example.com/?amount=12,50€&currency=EUR
https://pay.example.com/r/£5?note=caffè
https://bahn.example.de/reise?von=Köln&nach=München&zeit=10:30
https://museo.example.es/colección/año-1492?niño=sí#más
https://kirjasto.example.fi/hae?q=äö%C3%A5
https://magazin.example.hu/árvíztűrő-tükörfúrógép
https://sklep.example.pl/żółć?źdźbło=1
https://dergi.example.com.tr/İstanbul-ışık?ğ=ş
https://blog.example.cn/文章/2026?标签=技术#评论
https://shop.example.tw/商品/茶?顏色=紅&尺寸=大
"""

_HOSTS = """
example.com www.example.com EXAMPLE.COM Example.Org eXaMpLe.NeT example.com. www.example.co.uk. a.b.c.d.e.f.example.com
x.example xn--bcher-kva.example XN--BCHER-KVA.Example xn--a.example xn--nxasmq6b.example xn--fiqs8s.example xn--80ak6aa92e.example
my-shop.example 3com.example 123.example 1a.2b.example a--b.example under_score.example _dmarc.example.com
bücher.example BÜCHER.example straße.example STRASSE.example faß.example weiß-blau.example ñandú.example
éxample.example café.example caf%C3%A9.example %65xample.com ex%61mple.com EXAMPLE%2Ecom smörgåsbord.example
færøerne.example þing.example żółw.example čeština.example õun.example ğüzel.example ışık.example İstanbul.example
пример.example ПРИМЕР.example россия.рф українa.example българия.example ελλάδα.example ΕΛΛΆΔΑ.example σίσυφος.example
Βόλος.example հայաստան.example საქართველო.example ישראל.example إختبار.example مثال.إختبار ایران.example پاکستان.example
भारत.example বাংলা.example ਪੰਜਾਬ.example ગુજરાત.example தமிழ்.example తెలుగు.example ಕನ್ನಡ.example മലയാളം.example
සිංහල.example ไทย.example ລາວ.example မြန်မာ.example ភាសាខ្មែរ.example ཨོཾ.example 日本語.example 日本語.jp
例え.テスト 例え。テスト 例え．example 例子.测试 中国.example 中國.example 台灣.example 香港.example 한국.example 도메인.테스트
アイウ.example ｱｲｳ.example ｅｘａｍｐｌｅ.com ＥＸＡＭＰＬＥ．ｃｏｍ example｡com ☃.example ☕.example 💩.example i❤.example
🇨🇭.example ℡.example ①②③.example ²ⁿ.example ﬁsh.example ǅ.example ß.example soft\u00adhyphen.example
क्\u200dष.example a\u0301b.example a\u0308.example Ω.example K.example ſ.example Å.example
localhost localhost. LOCALHOST 127.0.0.1 127.1 127.0.1 192.168.1.254 10.0.0.1. 0 0.0.0.0 255.255.255.255 1.2.3 1.2
16909060 0x7f000001 0X7F.1 017700000001 0177.0.0.1 0x7f.0x0.0x0.0x1 010.8.0x8.8 1.2.0x304 4294967295 ０.０.０.１ %31%32%37.0.0.1
１２７。０。０。１ [::1] [::] [2001:db8::1] [2001:DB8:0:0:0:0:0:1] [2001:0db8:0000:0000:0001:0000:0000:0001] [fe80::1]
[::ffff:192.0.2.1] [::ffff:c000:201] [64:ff9b::192.0.2.33] [1:2:3:4:5:6:7:8] [1::8] [::2:3:4:5:6:7:8] [1:2:3:4:5:6:7::]
[1:0:0:2:0:0:0:3] [0:0:1:0:0:1:0:0] [::127.0.0.1] [A:B:C:D:E:F:0:1] [1:0:2:0:3:0:4:0]
"""

_PORTS = (":80", ":443", ":8080", ":8443", ":", ":0", ":1", ":00080", ":0443", ":65535", ":3000", ":000000000443")

_PATHS = """
/ | // | /// | /. | /.. | /./ | /../ | /a/. | /a/.. | /a/./b | /a/../b | /a/b/../../c | /a/b/../../../../c | /a//b
/a//../b | /a/b/. | /a/b/.. | /a/b/./ | /a/b/../ | /%2e | /%2e/ | /%2E%2e/a | /a/%2e%2e/b | /a/.%2E/b | /a/%2e./b | /a/...
/.../a | /.a | /a. | /a./b | /..a | /a../b | /a/..b | /a/%2e%2e%2f/b | /a%2fb | /a%2Fb | /a%5Cb | /a%5cb | /%00 | /a%00b
/%7Euser | /~user | /%61bc | /%41BC | /% | /%% | /%zz | /%a | /a% | /%E4%BD%A0 | /%e4%bd%a0 | /你好 | /%C3 | /%ff%fe
/ü | /u\u0308 | /é/è | /ÀÉÎ | /ß | /naïve | /Ωμέγα | /привет | /שלום | /سلام | /नमस्ते | /สวัสดี | /안녕 | /こんにちは | /😀
/👩🏽‍🚀/🚀 | /\u200b | /\ufeff | /\u202ertl | /a+b | /a%20b | /a%2Bb | /a&b | /a=b | /a;b;c | /a,b | /a:b | /a@b | /a!b | /a$b | /a'b | /a"b
/(a) | /[a] | /{a} | /<a> | /a^b | /a`b | /a*b | /a~b | /a_b-c.d | /a%25b | /a%2525b | /a%23b | /a%3Fb | /a%3fb | /a%22b | /a%3Cb%3E
/http://other.example/ | /https:/other.example | /C:/dir/file | /javascript:alert(1) | /?%3F | /index.html | /index.php/a/b | /.well-known/security.txt
/favicon.ico | /a.tar.gz | /A/B/C | /CamelCase | /0 | /00 | /-1 | /1e9 | /a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p | /%F0%9F%98%80 | /%f0%9f%98%80 | /½ | /№5
/a%C2%A0b | /%E2%80%8B | /\U0001f468\u200d\U0001f469 | /\ue000 | /\ufffd | /a/;/b | /;a | /:a | /@a | /@ | /* | /! | /' | /$ | /& | /= | /+ | /~ | /- | /_
"""

_QUERIES = """
? | ?? | ??? | ?a | ?a= | ?=a | ?= | ?& | ?&& | ?a=b | ?a=b&c=d | ?a=b;c=d | ?a=b&a=c | ?a[]=1&a[]=2 | ?a[b][c]=d | ?a=b=c | ?a=b?c=d | ?a=/b/c
?a=../b | ?a=http://x.example/ | ?a=https%3A%2F%2Fx.example%2F | ?a=b+c | ?a=b%20c | ?a=b%2Bc | ?a=%26 | ?a=% | ?a=%% | ?a=%zz | ?a=%e4 | ?a=%E4%BD%A0
?a=你 | ?ключ=значение | ?مفتاح=قيمة | ?q=ü | ?q=%FC | ?q=😀 | ?q=👩‍👩‍👧‍👦 | ?q=ß | ?q=€ | ?q=½ | ?q=\u200b | ?q=' | ?q='a'b' | ?q=" | ?q="a" | ?q=<b> | ?q=`
?q={} | ?q=[] | ?q=| | ?q=^ | ?q=~ | ?q=! | ?q=* | ?q=(a) | ?q=$1 | ?q=, | ?q=: | ?q=@ | ?q=%00 | ?q=%0a%0d | ?q=%0D%0ASet-Cookie:a=b | ?q=%09 | ?q=%7f | ?q=%C2%A0
?q=%23 | ?q=%2523 | ?q=#a | ?q=#a?b | ?#a | ?1 | ?2026-11-23T10:00:00+01:00 | ?x=0.1e-5 | ?x=-1 | ?JSON={"a":[1,"b"]} | ?x=a.b.c | ?x=.. | ?.. | ?/ | ?/../a | ?.
"""

_FRAGMENTS = """
# | ## | #a | #A | #a#b | #?a | #/a/b | #!/a | #!a=b | #a=b&c=d | #:~:text=some%20words | #:~:text=a-,b,-c | #section-1.2 | #L10-L20 | #%20 | #% | #%zz | #%E4%BD%A0
#你好 | #ü | #привет | #سلام | #😀 | #"a" | #<a> | #`a` | #{a} | #[a] | #|a | #^a | #'a' | #a+b | #a%2Bb | #a@b | #a:b | #a;b | #a,b | #* | #~ | #a/../b | #..
#\u200b | #\ufeff | #top | #t=1m30s | #page=3&zoom=100,0,0 | #xywh=160,120,320,240 | #svgView(viewBox(0,0,1,1)) | #/ | #(a) | #$a | #_ | #- | #%00 | #%0a
"""

# The one thing that they read in two ways. The standard lets a bar in a path be, and so do we; Chromium escapes it,
# also where it follows a Location: what it asks the server for is the same.
BARS = ("https://example.com/a|b", "https://example.com/C|/dir?x=1|2#c|d", "https://img.example.com/|/|.jpg")

_PREFIXES = ("https://", "http://", "HTTPS://", "hTTp://", "https:", "https:/", "https:///", "http:////")

# What browsers take and we do not, or neither does: the address, and words of our reason.
REFUSED: tuple[tuple[str, str], ...] = (
    ("", "is empty"),
    ("https://user@example.com/", "user name"),
    ("https://user:secret@example.com/", "user name"),
    ("https://:secret@example.com/", "user name"),
    ("https://user%40x@example.com/", "user name"),
    ("https://a@b@example.com/", "user name"),
    ("https://example.com@evil.example/", "user name"),
    ("https://intranet/", "no dot"),
    ("http://intranet./wiki", "no dot"),
    ("http://例え/", "no dot"),
    ("https://com", "no dot"),
    ("https://a..example/", "no host"),
    ("https://.example.com/", "no host"),
    ("https://example.com../", "no host"),
    (f"https://{'a' * 64}.example/", "no host"),
    (f"https://{'.'.join(['a' * 60] * 5)}.example/", "no host"),
    ("https:\\\\example.com\\a", "a backslash"),
    ("https://example.com\\a", "a backslash"),
    ("https://example.com/a\\b", "a backslash"),
    ("https://example.com\\@evil.example/", "a backslash"),
    ("https://example.com/?a=\\b", "a backslash"),
    ("https://example.com/#a\\b", "a backslash"),
    (" https://example.com/", "a blank"),
    ("https://example.com/ ", "a blank"),
    ("https://example.com/a b", "a blank"),
    ("https://example.com/?q=a b", "a blank"),
    ("https://example.com/#a b", "a blank"),
    ("https://exam ple.com/", "a blank"),
    ("https://example.com/a\tb", "a blank"),
    ("https://exam\nple.com/", "a blank"),
    ("https://example.com/a\r\nb", "a blank"),
    ("ht\ttps://example.com/", "a blank"),
    ("https://example.com/a\u00a0b", "a blank"),
    ("https://example.com/a\u3000b", "a blank"),
    ("https://example.com/a\u2028b", "a blank"),
    ("https://example.com/a\x00b", "control character"),
    ("https://example.com/a\x7fb", "control character"),
    ("https://example.com/a\x80b", "control character"),
    ("\x01https://example.com/", "control character"),
    ("ftp://example.com/", "http:// or https://"),
    ("file:///etc/passwd", "http:// or https://"),
    ("javascript:alert(1)", "http:// or https://"),
    ("data:text/html,hi", "http:// or https://"),
    ("mailto:a@example.com", "http:// or https://"),
    ("wss://example.com/", "http:// or https://"),
    ("tel:+4915112345678", "http:// or https://"),
    ("blob:https://example.com/1", "http:// or https://"),
    ("about:blank", "http:// or https://"),
    ("example.com", "not an address"),
    ("//example.com/", "not an address"),
    ("/a/b", "not an address"),
    ("https://", "not an address"),
    ("https:///", "not an address"),
    ("https://:80/", "not an address"),
    ("https://example.com:65536/", "not an address"),
    ("https://example.com:8x/", "not an address"),
    ("https://example.com:-1/", "not an address"),
    ("https://[::1/", "not an address"),
    ("https://[::g]/", "not an address"),
    ("https://[fe80::1%25eth0]/", "not an address"),
    ("https://[1:2:3]/", "not an address"),
    ("https://256.256.256.256/", "not an address"),
    ("https://1.2.3.4.5/", "not an address"),
    ("https://1.2.3.08/", "not an address"),
    ("https://0x100000000/", "not an address"),
    ("https://exa%23mple.com/", "not an address"),
    ("https://exa<mple.com/", "not an address"),
    ("https://exa|mple.com/", "not an address"),
    ("https://exa^mple.com/", "not an address"),
    ("https://%zz.example/", "not an address"),
    ("https://a%00b.example/", "not an address"),
    ("https://👨\u200d👩\u200d👧.example/", "not an address"),
    ("https://a\u200db.example/", "not an address"),
    ("https://नी\u200dल.example/", "not an address"),
    (f"https://example.com/{'a' * 2029}", "is longer"),
    (f"https://example.com/{'ü' * 400}", "Written as browsers send it"),
)


def accepted() -> list[str]:
    """The thousand addresses that are to be made into links: each part in its turn in many surroundings."""
    made = dict.fromkeys(islice(_made(), HOW_MANY * 4))  # in their order, each once
    return list(made)[:HOW_MANY]


def _made() -> Iterator[str]:
    hosts, paths, queries, fragments = _HOSTS.split(), _parts(_PATHS), _parts(_QUERIES), _parts(_FRAGMENTS)
    yield from _SHAPED.split()
    yield from (f"https://{host}/" for host in hosts)
    yield from (f"{prefix}{host}" for prefix, host in zip(cycle(_PREFIXES), hosts))
    yield from (f"https://example.com{path}" for path in paths)
    yield from (f"https://example.com{query}" for query in queries)
    yield from (f"https://example.com/{fragment}" for fragment in fragments)
    for scheme in ("http", "https"):
        yield from (
            f"{scheme}://{host}{port}/a" for port in _PORTS for host in ("example.com", "bücher.example", "[::1]")
        )
    for letter in ("a", "ü", "%41", "x=1&"):
        for size in (100, 300, 330):
            yield f"https://example.com/?q={letter * size}"
    some = cycle(hosts[::7] + hosts[3::11])
    ports = cycle(("", "", *_PORTS))
    for path, query, fragment in zip(cycle(paths), cycle(queries[::-1]), cycle(fragments[::3] + fragments[1::3])):
        yield f"http://{next(some)}{next(ports)}{path or '/'}{query.partition('#')[0]}{fragment}"


def _parts(text: str) -> list[str]:
    return re.split(r" \| |\n", text.strip())


def ask_chromium(addresses: Sequence[str]) -> list[str]:
    """Where it would go for each of them; empty where it would not."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "addresses.html"
        page.write_text(_PAGE % json.dumps(addresses).replace("<", "\\u003c"), encoding="ascii")
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # the page is our own, and root may not have one
        command = [_chromium(), *_QUIETLY, *sandbox, f"--user-data-dir={folder}/profile", "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    found = re.search(r"<pre>([^<]*)</pre>", done.stdout)
    assert found, done.stderr
    answers: list[str] = json.loads(unquote(found[1]))
    return answers


_QUIETLY = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PAGE = """<!doctype html><pre></pre><script>
const hrefs = %s.map(address => { try { return new URL(address).href } catch { return "" } });
document.querySelector("pre").textContent = encodeURIComponent(JSON.stringify(hrefs));
</script>
"""


def _chromium() -> str:
    return shutil.which("chromium") or "chromium"


def chromium_version() -> str:
    done = subprocess.run([_chromium(), "--version"], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    return " ".join(done.stdout.split()[:2])


def rows(path: Path) -> list[list[str]]:
    """The rows of a file that was written here. Every field is a JSON text without its quotation marks."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [
        [json.loads(f'"{field}"') for field in line.split("\t")] for line in lines if line and not line.startswith("#")
    ]


def _write(path: Path, head: str, rows: Sequence[Sequence[str]]) -> None:
    lines = ["\t".join(json.dumps(field, ensure_ascii=False)[1:-1] for field in row) for row in rows]
    path.write_text("\n".join([f"# {head}", *lines, ""]), encoding="utf-8")


def main() -> None:
    version = chromium_version()
    addresses = accepted()
    _write(
        ADDRESSES_FILE,
        f"Addresses, and where {version} would go for them. Written by scripts/addresses.py.",
        list(zip(addresses, ask_chromium(addresses), strict=True)),
    )
    texts = [address for address, _ in REFUSED]
    _write(
        REFUSED_FILE,
        f"Addresses that no link may have, where {version} would go (nothing: nowhere), and why not."
        " Written by scripts/addresses.py.",
        [(address, href, reason) for (address, reason), href in zip(REFUSED, ask_chromium(texts), strict=True)],
    )


if __name__ == "__main__":
    main()
