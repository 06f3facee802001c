use super::*;

fn source(uri: &str, suites: &[&str], signed_by: Option<&str>) -> Source {
    Source {
        uris: vec![uri.into()],
        suites: suites.iter().map(|suite| String::from(*suite)).collect(),
        components: vec!["main".into()],
        signed_by: signed_by.map(String::from),
        trusted: None,
    }
}

#[test]
fn one_line_sources_are_read() {
    let text = "
# deb http://commented.invalid/debian bookworm main
deb http://a.invalid/debian bookworm main
\tdeb\thttp://b.invalid/debian   bookworm-updates\tmain  # with a comment
deb [ arch=amd64,arm64  signed-by=/k/a.gpg,/k/b.gpg ] http://c.invalid/debian bookworm main
deb [trusted=yes]http://d.invalid/debian bookworm main
deb[signed-by=/k/e.gpg] http://e.invalid/debian bookworm main
deb-src http://f.invalid/debian bookworm main
debian http://g.invalid/debian bookworm main
deb cdrom:[Debian GNU/Linux 12 _Bookworm_ - amd64 NETINST]/ bookworm main
deb [signed-by=/k/h.gpg http://h.invalid/debian bookworm main
deb http://only-a-uri.invalid/debian
deb
";
    let mut trusted = source("http://d.invalid/debian", &["bookworm"], None);
    trusted.trusted = Some("yes".into());
    let expected = [
        source("http://a.invalid/debian", &["bookworm"], None),
        source("http://b.invalid/debian", &["bookworm-updates"], None),
        source(
            "http://c.invalid/debian",
            &["bookworm"],
            Some("/k/a.gpg /k/b.gpg"),
        ),
        trusted,
        source("http://e.invalid/debian", &["bookworm"], Some("/k/e.gpg")),
    ];
    assert_eq!(parse_one_line(text), expected);
}

#[test]
fn deb822_sources_are_read() {
    let text = "# a comment before everything
Types: deb
# a comment inside
URIs:   http://a.invalid/debian
Suites: bookworm\tbookworm-updates
Components: main
Signed-By: /k/a.gpg

Types: deb deb-src
uris: http://b.invalid/debian
SUITES:
 bookworm
# URIs: a comment between continuation lines
 bookworm-updates
Components: main
Enabled: yes
  \t
Enabled: no
Types: deb
URIs: http://disabled.invalid/debian
Suites: bookworm-backports
Components: main


Types: deb-src
URIs: http://src.invalid/debian
Suites: bookworm
Components: main
";
    let suites = &["bookworm", "bookworm-updates"];
    assert_eq!(
        parse_deb822(text),
        [
            source("http://a.invalid/debian", suites, Some("/k/a.gpg")),
            source("http://b.invalid/debian", suites, None),
        ]
    );
    // The same with the line ends of another system, and without the last one.
    assert_eq!(
        parse_deb822(text.trim_end()),
        parse_deb822(&text.replace('\n', "\r\n"))
    );
}

#[test]
fn nonsense_is_no_source() {
    for text in ["", "\n\n", " continued", "no colon", ": x", "Types: deb"] {
        let sources = parse_deb822(text);
        assert!(!sources.iter().any(Source::is_mirror), "{text:?}");
        assert_eq!(backports_file(&sources, "bookworm"), None, "{text:?}");
    }
}

#[test]
fn backports_are_found_under_any_file_name_in_both_syntaxes() {
    let lines = "deb http://a.invalid/debian bookworm-backports main contrib";
    assert!(has_backports(&parse_one_line(lines), "bookworm"));
    assert!(!has_backports(
        &parse_one_line(&format!("#{lines}")),
        "bookworm"
    ));
    assert!(!has_backports(&parse_one_line(lines), "trixie"));
    let contrib = "deb http://a.invalid/debian bookworm-backports contrib";
    assert!(!has_backports(&parse_one_line(contrib), "bookworm"));
    let stanza = "Types: deb\nURIs: http://a.invalid\nSuites: bookworm bookworm-backports\n\
                  Components: main\n";
    assert!(has_backports(&parse_deb822(stanza), "bookworm"));
    assert!(!has_backports(
        &parse_deb822(&format!("{stanza}Enabled: NO\n")),
        "bookworm"
    ));

    let dir = std::env::temp_dir().join(format!("viommu-sources-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("sources.list.d")).unwrap();
    std::fs::write(dir.join("sources.list.d/x.sources.disabled"), stanza).unwrap();
    std::fs::write(
        dir.join("sources.list"),
        "deb http://a.invalid/debian bookworm main",
    )
    .unwrap();
    assert!(!has_backports(&read(&dir), "bookworm"));
    std::fs::write(dir.join("sources.list.d/some-name.sources"), stanza).unwrap();
    let sources = read(&dir);
    assert_eq!(sources.len(), 2);
    assert!(has_backports(&sources, "bookworm"));
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(read(&dir), []);
}

#[test]
fn the_new_source_has_the_mirror_and_key_of_the_release() {
    let sources = [
        source(
            "http://security.invalid/debian",
            &["bookworm-security"],
            Some("/k/s.gpg"),
        ),
        source("http://other.invalid/debian", &["trixie"], None),
        source(
            "http://own.invalid/debian",
            &["bookworm"],
            Some("/k/own.gpg"),
        ),
    ];
    let text = backports_file(&sources, "bookworm").unwrap();
    assert_eq!(
        parse_deb822(&text),
        [source(
            "http://own.invalid/debian",
            &["bookworm-backports"],
            Some("/k/own.gpg")
        )]
    );
    assert!(has_backports(&parse_deb822(&text), "bookworm"));
    assert_eq!(backports_file(&sources[..2], "bookworm"), None);
}

#[test]
fn keys_inside_the_file_trust_and_several_mirrors_are_kept() {
    let stanza = "Types: deb\nURIs: http://a.invalid http://b.invalid\nSuites: oldstable\n\
                  Components: main contrib\nTrusted: yes\nSigned-By:\n \
                  -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINB\n";
    let sources = parse_deb822(stanza);
    let made = parse_deb822(&backports_file(&sources, "bookworm").unwrap());
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].uris, ["http://a.invalid", "http://b.invalid"]);
    assert_eq!(made[0].signed_by, sources[0].signed_by);
    assert!(
        made[0]
            .signed_by
            .as_deref()
            .unwrap()
            .ends_with(" .\n mQINB")
    );
    assert_eq!(made[0].trusted.as_deref(), Some("yes"));
}
