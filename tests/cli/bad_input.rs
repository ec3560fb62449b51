//! Files, lists and options that cannot be used: a record or a message, and the right exit code.

use super::{Sandbox, tiny};

#[test]
fn bad_images_become_records() {
    let sandbox = Sandbox::new();
    let good = sandbox.read("photos/landscape.jpg");
    let png = sandbox.read("photos/odd-margin.png");
    for (name, bytes) in [
        ("a-empty.png", &b""[..]),
        ("b-cut.png", &png[..png.len() / 2]),
        ("c-text.jpg", b"this is no image"),
        ("d-png-called.jpg", &png),
        ("e-zeros.png", &[0; 4096]),
    ] {
        sandbox.write(format!("photos/{name}"), bytes);
    }
    assert!(!good.is_empty());
    let ran = sandbox.embed(&["photos", "--batch-size", "3"]).code(1);
    let ids = ran.ids();
    assert_eq!(
        ids[..5],
        [
            "photos/a-empty.png: empty",
            "photos/b-cut.png: truncated",
            "photos/c-text.jpg: unsupported",
            "photos/cmyk.jpg",
            "photos/d-png-called.jpg"
        ]
    );
    assert_eq!(ids[5], "photos/e-zeros.png: unsupported");
    assert_eq!(ids.len(), 13);
    assert!(ran.stderr.contains("warning: 4 of 13 items failed; the first: photos/a-empty.png: "), "{}", ran.stderr);
    let verbose = sandbox.embed(&["photos", "-v"]).code(1);
    assert!(verbose.stderr.contains("photos/c-text.jpg: "), "{}", verbose.stderr);
}

#[test]
fn places_without_images() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("none")).unwrap();
    sandbox.write("none/notes.txt", "x");
    let ran = sandbox.embed(&["none", "--output", "out.jsonl"]).code(3);
    assert!(ran.stderr.starts_with("error: no images in none\nhint: folders are searched for"), "{}", ran.stderr);
    assert_eq!(sandbox.names(), ["none"]);
    // One of two is enough to go on.
    assert_eq!(sandbox.embed(&["none", "photos/tiny.png"]).code(0).ids(), ["photos/tiny.png"]);
}

#[test]
fn lists_with_bad_entries() {
    let sandbox = Sandbox::new();
    let mut list = b"photos\nphotos/tiny.png\n".to_vec();
    list.extend(b"a\0b\n");
    list.extend([b'x'; 100_000]);
    list.extend(b"\nnone.png\n");
    let ran = sandbox.embed_with(&["-"], list).code(1);
    let ids = ran.ids();
    assert_eq!(ids[..3], ["photos: unreadable", "photos/tiny.png", "a\0b: invalid"]);
    assert!(ids[3].starts_with("xxxx") && ids[3].len() < 100 && ids[3].ends_with(": invalid"), "{}", ids[3]);
    assert_eq!(ids[4..], ["none.png: not_found"]);
    let ran = sandbox.embed_with(&["--texts", "-"], b"one\ntw\xff\nthree".to_vec()).code(1);
    assert_eq!(ran.ids(), ["one", "tw\u{fffd}: invalid", "three"]);
}

#[test]
fn command_lines_that_make_no_sense() {
    let sandbox = Sandbox::new();
    for (args, message) in [
        (&[][..], "error: nothing to embed\nhint: "),
        (&["-", "-"], "error: standard input cannot be read twice (INPUTS and INPUTS)"),
        (&["-", "--texts", "-"], "error: standard input cannot be read twice (INPUTS and --texts)"),
        (&["photos", "--output", "x.xlsx"], "error: x.xlsx: no format has the ending .xlsx\nhint: "),
        (&["photos", "--format", "xlsx"], "error: --format takes one of jsonl, npy, safetensors"),
        (&["photos", "--format", "npy"], "error: npy needs a regular file, not a pipe\nhint: "),
        (&["photos", "--batch-size", "0"], "error: invalid value '0' for '--batch-size <N>'"),
        (&["photos", "--workers", "0"], "error: invalid value '0' for '--workers <N>'"),
        (&["photos", "--threads", "many"], "error: invalid value 'many' for '--threads <N>'"),
        (&["photos", "--device", "gpu"], "error: invalid value 'gpu' for '--device <DEVICE>'"),
        (&["photos", "--precision", "f16", "--device", "cpu"], "error: --precision f16: the CPU computes in f32"),
        (&["photos", "--image-size", "33"], "error: --image-size 33 is no multiple of the patch size"),
        (&["photos", "--nonsense"], "error: unexpected argument '--nonsense'"),
    ] {
        let ran = sandbox.embed(args).code(2);
        assert!(ran.stderr.starts_with(message), "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.is_empty());
    }
    #[cfg(not(feature = "cuda"))]
    insta::assert_snapshot!(sandbox.embed(&["photos", "--device", "cuda:1"]).code(2).stderr, @r"
    error: --device cuda: this program was built without CUDA
    hint: build with `cargo install --path . --features cuda`, or use --device cpu
    ");
}

#[test]
fn models_that_cannot_be_opened() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    let model = |model: &str| sandbox.run(&["embed", "photos", "--model", model]).code(3).stderr;
    assert!(model("./none").starts_with("error: ./none: no such model file or directory"));
    assert!(model("empty").starts_with("error: empty: no weights in this directory"));
    std::fs::create_dir(sandbox.path("lying")).unwrap();
    std::fs::copy(tiny().join("config.json"), sandbox.path("lying/config.json")).unwrap();
    sandbox.write("lying/model.safetensors", [0xff; 64]);
    assert!(model("lying").contains("model.safetensors"), "{}", model("lying"));
}

#[test]
fn texts_that_cannot_be_read() {
    let sandbox = Sandbox::new();
    let ran = sandbox.embed(&["--texts", "none.txt"]).code(3);
    insta::assert_snapshot!(ran.stderr, @"error: none.txt: No such file or directory (os error 2)");
    let ran = sandbox.embed(&["--texts", "photos"]).code(3);
    insta::assert_snapshot!(ran.stderr, @"error: photos: a directory, not a file of texts");
}

/// The kinds and messages of failed records, by id.
fn errors(ran: &super::Ran) -> Vec<(String, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let failed = |record: &serde_json::Value| record.get("error").is_some();
    let error = |record: serde_json::Value| {
        (text(&record["id"]), text(&record["error"]["kind"]), text(&record["error"]["message"]))
    };
    ran.records().into_iter().filter(failed).map(error).collect()
}

#[track_caller]
fn assert_error(found: &(String, String, String), id: &str, kind: &str, message: &str) {
    assert!(found.0 == id && found.1 == kind && found.2.contains(message), "{found:?} is not {id} {kind} {message}");
}

#[test]
fn tables_with_bad_rows() {
    let sandbox = Sandbox::new();
    let mut table = b"path,caption\r\nphotos/tiny.png,fine\r\nphotos/tiny.png\r\n,no image\r\n".to_vec();
    table.extend(b"https://example.org/a.jpg,a URL\r\n\"a\0b\",NUL\r\n\r\nphotos/tiny.png,\"not \xff UTF-8\"\r\n");
    table.extend(b"photos/none.png,missing\r\nphotos/tiny.png,\"  \"\r\nphotos/tiny.png,\"last, and\nlonger\"");
    sandbox.write("t.csv", table);
    let ran = sandbox.embed(&["t.csv"]).code(1);
    let found = errors(&ran);
    assert_eq!((ran.records().len(), found.len()), (9, 5));
    assert_error(&found[0], "t.csv#1", "invalid", "line 3 has 1 cells, the header has 2");
    assert_error(&found[1], "t.csv#2", "invalid", "there is no image");
    assert_error(&found[2], "https://example.org/a.jpg", "unsupported", "download it first");
    assert_error(&found[3], "a\0b", "invalid", "NUL byte");
    assert_error(&found[4], "photos/none.png", "not_found", "No such file");
    for (ending, rows) in
        [("\n", "a,b\n\n1,\"x\ny\"\n\n\n2\n3,4\n5"), ("\r\n", "a,b\r\n1,\"x\r\ny\"\r\n\r\n\r\n\r\n2\r\n3,4\r\n5")]
    {
        sandbox.write("lines.csv", rows.replace("a,b", "path,b"));
        let found = errors(&sandbox.embed(&["lines.csv"]).code(1));
        let lines = ["line 7 has 1 cells", "line 9 has 1 cells"];
        assert!(found[1].2.starts_with(lines[0]) && found[3].2.starts_with(lines[1]), "{ending:?}: {found:?}");
    }
    let found = errors(&sandbox.embed(&["t.csv", "--captions"]).code(1));
    assert_eq!(found.len(), 3);
    assert_error(&found[1], "photos/tiny.png", "invalid", "the caption is not UTF-8");
    assert_error(&found[2], "photos/tiny.png", "invalid", "there is no caption");
    // A quote that is never closed would swallow the file, and the memory.
    let mut endless = b"path\nphotos/tiny.png\n\"".to_vec();
    endless.resize(20 << 20, b'x');
    sandbox.write("endless.csv", endless);
    let ran = sandbox.embed(&["endless.csv", "photos/tiny.png"]).code(1);
    assert_eq!(ran.ids(), ["photos/tiny.png", "endless.csv: corrupt", "photos/tiny.png"]);
    assert_error(&errors(&ran)[0], "endless.csv", "corrupt", "a quote that is never closed?");
    assert_eq!(sandbox.embed(&["none.csv"]).code(1).ids(), ["none.csv: not_found"]);
    sandbox.write("empty.csv", "");
    assert_eq!(sandbox.embed(&["empty.csv"]).code(1).ids(), ["empty.csv: empty"]);
}

#[test]
fn columns_that_are_not_there() {
    let sandbox = Sandbox::new();
    sandbox.write("t.csv", "picture,words\nphotos/tiny.png,x\n");
    let stderr = |args: &[&str]| sandbox.embed(args).code(3).stderr;
    let message = stderr(&["t.csv"]);
    assert!(message.starts_with("error: t.csv: no column image, img, path, "), "{message}");
    assert!(message.contains("hint: name one with --image-key; the columns are picture, words"), "{message}");
    assert!(stderr(&["t.csv", "--image-key", "photo"]).starts_with("error: t.csv: no column photo"));
    assert!(stderr(&["t.csv", "--image-key", "picture", "--pairs"]).contains("name one with --caption-key"));
    assert!(stderr(&["t.csv", "--image-key", "picture", "--id-key", "id"]).starts_with("error: t.csv: no column id"));
    let args = ["t.csv", "--image-key", "picture", "--caption-key", "words", "--pairs"];
    assert_eq!(sandbox.embed(&args).code(0).ids(), ["photos/tiny.png", "photos/tiny.png"]);
    for (args, message) in [
        (["t.csv", "--input-format", "zip"], "there are list, csv, tsv, jsonl, parquet, tar, npy"),
        (["t.csv", "--csv-separator", "ab"], "expected one character"),
    ] {
        let ran = sandbox.embed(&args).code(2);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
}

#[test]
fn json_lines_with_bad_records() {
    let sandbox = Sandbox::new();
    let lines = [
        r#"{"image":"photos/tiny.png","text":["one","two",3]}"#.to_owned(),
        "".to_owned(),
        "[1]".to_owned(),
        r#"{"picture":"photos/tiny.png"}"#.to_owned(),
        r#"{"image":7}"#.to_owned(),
        format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!(r#"{{"image":"{}"}}"#, "x".repeat(2 << 20)),
        r#"{"image":{"path":"photos/tiny.png","bytes":null},"text":null}"#.to_owned(),
    ];
    sandbox.write("t.jsonl", lines.join("\n"));
    let ran = sandbox.embed(&["t.jsonl"]).code(1);
    let found = errors(&ran);
    assert_eq!((ran.records().len(), found.len()), (7, 5));
    assert_error(&found[0], "t.jsonl#1", "invalid", "line 3: not a JSON object");
    assert_error(&found[1], "t.jsonl#2", "invalid", "line 4: no field image, img");
    assert_error(&found[2], "t.jsonl#3", "invalid", "line 5: the image is no path");
    assert_error(&found[3], "t.jsonl#4", "invalid", "line 6: not a JSON object");
    assert_error(&found[4], "t.jsonl#5", "too_large", "line 7 is longer than");
    let ran = sandbox.embed(&["t.jsonl", "--captions"]).code(1);
    assert_eq!(ran.ids()[..3], ["photos/tiny.png", "photos/tiny.png", "photos/tiny.png: invalid"]);
    assert_error(errors(&ran).last().unwrap(), "t.jsonl#6", "invalid", "line 8: no field caption");
}

/// An archive; a member without content is of the kind that its name tells.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(match *name {
            "link.png" => tar::EntryType::Symlink,
            "hard.jpg" => tar::EntryType::Link,
            "device.png" => tar::EntryType::Char,
            "pipe.png" => tar::EntryType::Fifo,
            _ => tar::EntryType::Regular,
        });
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn archives_with_odd_members() {
    let sandbox = Sandbox::new();
    let png = sandbox.read("photos/tiny.png");
    sandbox.write(
        "odd.tar",
        archive(&[
            ("a.png", &png),
            ("a.txt", b"a caption"),
            ("link.png", b""),
            ("hard.jpg", b""),
            ("device.png", b""),
            ("pipe.png", b""),
            ("../../escape.png", &png),
            ("/etc/passwd.png", &png),
            ("only.txt", b"a caption without an image"),
            ("README", b"no extension"),
            ("._a.png", b"not an image"),
            ("b.json", b"{\"caption\": \"from JSON\"}"),
            ("b.png", &png),
            ("c.png", &png),
            ("c.json", b"{oops"),
            ("d.PNG", b"no image at all"),
        ]),
    );
    let ran = sandbox.embed(&["odd.tar"]).code(1);
    let expected = [
        "a",
        "link: unsupported",
        "hard: unsupported",
        "device: unsupported",
        "pipe: unsupported",
        "../../escape: invalid",
        "/etc/passwd: invalid",
        "only: invalid",
        "b",
        "c",
        "d: unsupported",
    ];
    assert_eq!(ran.ids(), expected.map(|id| format!("odd.tar#{id}")));
    assert!(errors(&ran)[0].2.starts_with("a link in the archive"), "{:?}", errors(&ran)[0]);
    let ran = sandbox.embed(&["odd.tar", "--captions"]).code(1);
    let good: Vec<String> = ran.ids().into_iter().filter(|id| !id.contains(": ")).collect();
    assert_eq!(good, ["odd.tar#a", "odd.tar#only", "odd.tar#b"]);
    assert!(ran.ids().contains(&"odd.tar#c: invalid".to_owned()));
    assert_eq!(sandbox.names(), ["odd.tar"]);
}

#[test]
fn archives_that_end_early() {
    let sandbox = Sandbox::new();
    let png = sandbox.read("photos/tiny.png");
    let whole = archive(&[("a.png", &png), ("b.png", &png)]);
    let ids = |name: &str, bytes: &[u8]| {
        sandbox.write(name, bytes);
        sandbox.embed(&[name]).code(1).ids()
    };
    let second = 512 + png.len().next_multiple_of(512);
    assert_eq!(ids("x.tar", &whole[..second + 600]), ["x.tar#a", "x.tar#b: truncated", "x.tar: truncated"]);
    assert_eq!(ids("x.tar", &whole[..second + 100]), ["x.tar#a", "x.tar: truncated"]);
    assert_eq!(ids("x.tar", &whole[..600]), ["x.tar#a: truncated", "x.tar: truncated"]);
    assert_eq!(ids("x.tar", b""), ["x.tar: empty"]);
    assert_eq!(ids("x.tar", &png), ["x.tar: corrupt"]);
    let mut damaged = whole.clone();
    damaged[second + 3] = 7;
    assert_eq!(ids("x.tar", &damaged), ["x.tar#a", "x.tar: corrupt"]);
    let gzip = |bytes: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut writer, bytes).unwrap();
        writer.finish().unwrap()
    };
    let compressed = gzip(&whole);
    let found = ids("x.tar.gz", &compressed[..compressed.len() / 2]);
    assert_eq!(found.last().unwrap(), "x.tar.gz: truncated");
    assert_eq!(ids("x.tar.gz", &gzip(b"no archive")), ["x.tar.gz: corrupt"]);
    // A name of 200 MB that compresses to nothing.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(200 << 20);
    header.set_cksum();
    let bomb = [header.as_bytes(), &vec![b'a'; 1 << 20][..]].concat();
    assert_eq!(ids("x.tgz", &gzip(&bomb)), ["x.tgz: too_large"]);
    // One bad archive does not end the job.
    sandbox.write("y.tar", &whole);
    let ran = sandbox.embed(&["x.tgz", "none-{0..1}.tar", "y.tar", "photos/tiny.png"]).code(1);
    let expected =
        ["x.tgz: too_large", "none-0.tar: not_found", "none-1.tar: not_found", "y.tar#a", "y.tar#b", "photos/tiny.png"];
    assert_eq!(ran.ids(), expected);
}

#[test]
#[cfg(feature = "parquet")]
fn parquet_files_that_cannot_be_used() {
    let sandbox = Sandbox::new();
    let golden = super::root().join("tests/golden/data/inputs/hf.parquet");
    let whole = std::fs::read(&golden).unwrap();
    for (name, bytes) in [("a.parquet", &whole[..whole.len() / 2]), ("b.parquet", b"PAR1"), ("c.parquet", b"")] {
        sandbox.write(name, bytes);
        assert_eq!(sandbox.embed(&[name]).code(1).ids(), [format!("{name}: corrupt")]);
    }
    let golden = golden.display().to_string();
    let message = sandbox.embed(&[&golden, "--image-key", "label"]).code(3).stderr;
    assert!(message.contains("the column label holds Int64, not images or paths"), "{message}");
    let ran = sandbox.embed(&[&golden, "--captions", "--caption-key", "label"]).code(1);
    assert!(errors(&ran)[0].2.contains("the captions are Int64, not texts"));
}

#[test]
fn arrays_that_hold_no_pixels() {
    let sandbox = Sandbox::new();
    sandbox.embed(&["photos/tiny.png", "--output", "embeddings.npy"]).code(0);
    let ran = sandbox.embed(&["embeddings.npy"]).code(1);
    assert_error(
        &errors(&ran)[0],
        "embeddings.npy",
        "unsupported",
        "embeddings perhaps; images are bytes (u8) of shape",
    );
    let pixels = std::fs::read(super::root().join("tests/golden/data/inputs/pixels.npy")).unwrap();
    sandbox.write("cut.npy", &pixels[..pixels.len() - 10]);
    assert_eq!(sandbox.embed(&["cut.npy"]).code(1).ids(), ["cut.npy#0", "cut.npy#1: truncated"]);
    sandbox.write("zero.npy", b"");
    assert_eq!(sandbox.embed(&["zero.npy"]).code(1).ids(), ["zero.npy: truncated"]);
}

#[test]
fn data_sets_with_missing_parts() {
    let sandbox = Sandbox::new();
    sandbox.file("set/test/nshards.txt", "2\n");
    sandbox.file("set/test/0.tar", archive(&[("a.png", &sandbox.read("photos/tiny.png")), ("a.cls", b"5")]));
    assert_eq!(sandbox.embed(&["set"]).code(1).ids(), ["set/test/0.tar#a", "set/test/1.tar: not_found"]);
    let model = tiny();
    let eval = |args: &[&str]| {
        sandbox.run(&[&["zeroshot", "--eval", "set", "--model", model.to_str().unwrap()], args].concat()).code(3).stderr
    };
    assert!(eval(&[]).contains("no classnames.txt in here"), "{}", eval(&[]));
    assert!(eval(&["--labels", "a,b"]).contains("none of the images could be read"), "{}", eval(&["--labels", "a,b"]));
    sandbox.write("set/test/nshards.txt", "99999999999999999999");
    assert!(sandbox.embed(&["set"]).code(3).stderr.contains("not a number of shards"));
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    #[test]
    fn links() {
        let sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.path("tree")).unwrap();
        symlink("../photos/tiny.png", sandbox.path("tree/b.png")).unwrap();
        symlink(".", sandbox.path("tree/a-loop")).unwrap();
        symlink("nowhere", sandbox.path("tree/c.png")).unwrap();
        std::fs::create_dir(sandbox.path("tree/d")).unwrap();
        symlink("../../tree", sandbox.path("tree/d/loop")).unwrap();
        symlink("../photos", sandbox.path("tree/e")).unwrap();
        let ran = sandbox.embed(&["tree"]).code(1);
        let ids = ran.ids();
        assert_eq!(
            ids[..4],
            ["tree/a-loop: unreadable", "tree/b.png", "tree/c.png: not_found", "tree/d/loop: unreadable"]
        );
        assert_eq!((ids.len(), ids[4].as_str()), (12, "tree/e/cmyk.jpg"));
        let message = ran.records().iter().find(|r| r["id"] == "tree/d/loop").unwrap()["error"]["message"].clone();
        assert_eq!(message, "this symbolic link leads back to tree; it is not followed");
    }

    #[test]
    fn names_that_are_not_utf8() {
        let sandbox = Sandbox::new();
        let name = OsStr::from_bytes(b"photos/caf\xe9.png");
        if std::fs::copy(sandbox.path("photos/tiny.png"), sandbox.path(name)).is_err() {
            return; // A file system of UTF-8 names.
        }
        let tiny = sandbox.embed(&["photos/tiny.png"]).code(0).records()[0]["embedding"].clone();
        for ran in [sandbox.embed(&[name]), sandbox.embed_with(&["-"], name.as_bytes())] {
            let ran = ran.code(0);
            assert_eq!(ran.ids(), ["photos/caf\u{fffd}.png"]);
            assert_eq!(ran.records()[0]["embedding"], tiny);
        }
        assert!(sandbox.embed(&["photos"]).code(0).ids().contains(&"photos/caf\u{fffd}.png".to_owned()));
    }

    #[test]
    fn files_that_are_no_files() {
        let sandbox = Sandbox::new();
        let pipe = std::ffi::CString::new(sandbox.path("photos/aaa.png").as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends with a NUL byte.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        // In a folder, a pipe would wait for ever; nothing but files counts.
        assert_eq!(sandbox.embed(&["photos"]).code(0).ids().len(), 8);
        let script = r#""$0" embed --model "$1" /dev/fd/3 3< photos/tiny.png"#;
        let output = std::process::Command::new("sh")
            .current_dir(sandbox.path(""))
            .args(["-c", script, env!("CARGO_BIN_EXE_clip-cli")])
            .arg(tiny())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
    }

    #[test]
    fn unreadable_files() {
        use std::os::unix::fs::PermissionsExt;
        let sandbox = Sandbox::new();
        let path = sandbox.path("photos/tiny.png");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        if std::fs::File::open(&path).is_ok() {
            return; // The administrator may read everything.
        }
        assert!(sandbox.embed(&["photos"]).code(1).ids().contains(&"photos/tiny.png: unreadable".to_owned()));
    }
}
