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
        (&["photos", "--output", "x.parquet"], "error: x.parquet: no format has the ending .parquet\nhint: "),
        (&["photos", "--format", "parquet"], "error: --format takes one of jsonl, npy, safetensors"),
        (&["photos", "--format", "npy"], "error: npy needs a regular file, not a pipe\nhint: "),
        (&["photos", "--batch-size", "0"], "error: invalid value '0' for '--batch-size <N>'"),
        (&["photos", "--workers", "0"], "error: invalid value '0' for '--workers <N>'"),
        (&["photos", "--threads", "many"], "error: invalid value 'many' for '--threads <N>'"),
        (&["photos", "--device", "gpu"], "error: invalid value 'gpu' for '--device <DEVICE>'"),
        (&["photos", "--dtype", "f16", "--device", "cpu"], "error: --dtype f16: the CPU computes in f32"),
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
