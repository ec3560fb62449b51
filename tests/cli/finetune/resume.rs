//! Runs that were killed, stopped by a full disk, or are asked to go on as something else.

use super::{finetune, pairs, same_files, steps};
use crate::cli::{Ran, Sandbox, model, tiny};
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Starts a run that may be killed.
fn start(sandbox: &Sandbox, args: &[&str]) -> Child {
    let mut command = sandbox.command(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until something is so. Fails where the run ends before.
#[track_caller]
fn wait(child: &mut Child, mut so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
        assert!(since.elapsed() < Duration::from_secs(60), "nothing happens");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// How many steps a run's last checkpoint has.
fn done(run: &Path) -> u64 {
    let state = std::fs::read(run.join("state.json")).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&state).map_or(0, |state| state["step"].as_u64().unwrap_or(0))
}

/// Whether a checkpoint is being written, or was when the run was killed.
fn writes(run: &Path) -> bool {
    let mut entries = std::fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().ends_with(".part"))
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_bytes() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let options = "--train all --lr 1e-3 --batch-size 4 --epochs 12 --save-every 1 --ema-decay 0.9 --no-retention \
                   --text-negatives swap,replace --loss negclip --mine hard --mine-every 3 \
                   --extra-negatives queue=7,sample=2 --mochi 4,2,3 --mochi-after 2,5";
    let tiny = tiny();
    let whole = |output: &'static str| {
        let mut args = vec!["finetune", "--train-data", "pairs.tsv", "--model", tiny.to_str().unwrap()];
        args.extend(options.split_whitespace());
        args.extend(["--output", output]);
        args
    };
    sandbox.run(&whole("whole")).code(0);
    let run = sandbox.path("killed");
    let resume = ["finetune", "--resume", "--output", "killed", "--no-retention", "--save-every", "1"];
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let (mut child, mut torn) = (start(&sandbox, &whole("killed")), 0);
    for kill in 0..10 {
        let before = done(&run);
        if kill % 2 == 0 {
            // While a checkpoint is written; half of one may be left of the last kill.
            wait(&mut child, || !writes(&run));
            wait(&mut child, || writes(&run));
        } else {
            // Some time after the next one.
            wait(&mut child, || done(&run) > before);
            std::thread::sleep(Duration::from_millis(rng.random_range(0..15)));
        }
        child.kill().unwrap();
        // By the signal, and not because it had come to its end.
        assert_eq!(child.wait().unwrap().code(), None);
        torn += usize::from(writes(&run));
        child = start(&sandbox, &resume);
    }
    assert!(torn > 0, "no run was killed while it wrote a checkpoint");
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    same_files(&sandbox.path("whole"), &run);
    assert!(!writes(&run));
    assert_eq!(steps(&sandbox.path("whole")), steps(&run));
}

/// What a run is that its disk is too small for, from its first checkpoint on.
#[cfg(target_os = "linux")]
fn run_out_of_space(sandbox: &Sandbox, args: &[&str], run: &Path) -> Ran {
    let mut child = start(sandbox, args);
    wait(&mut child, || done(run) > 0);
    // The state of the optimiser is twice as large as the weights: the next checkpoint will lack it.
    let weights = std::fs::read_dir(run.join("checkpoints")).unwrap().next().unwrap().unwrap().path();
    let size = std::fs::metadata(weights.join("weights.safetensors")).map_or(700_000, |file| file.len());
    let limit = libc::rlimit { rlim_cur: size * 3 / 2, rlim_max: size * 3 / 2 };
    // SAFETY: the limit is a valid one, and the process is our child.
    let set =
        unsafe { libc::prlimit(child.id().cast_signed(), libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let ended = child.wait_with_output().unwrap();
    Ran { code: ended.status.code(), stdout: Vec::new(), stderr: String::from_utf8(ended.stderr).unwrap() }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_the_last_good_checkpoint() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let tiny = tiny();
    let options = "--train all --lr 1e-3 --batch-size 4 --epochs 6 --save-every 1 --no-retention";
    let args = |output: &'static str| {
        let mut args = vec!["finetune", "--train-data", "pairs.tsv", "--model", tiny.to_str().unwrap()];
        args.extend(options.split_whitespace());
        args.extend(["--output", output]);
        args
    };
    sandbox.run(&args("whole")).code(0);
    let run = sandbox.path("full");
    let ran = run_out_of_space(&sandbox, &args("full"), &run).code(3);
    assert!(ran.stderr.contains("error: ") && ran.stderr.contains("File too large"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--resume goes on from it"), "{}", ran.stderr);
    let last = done(&run);
    let whole = ["weights", "optimizer"].map(|part| format!("checkpoints/step-{last:08}/{part}.safetensors"));
    assert!(last > 0 && last < 18 && whole.iter().all(|name| run.join(name).is_file()), "step {last}");
    assert!(!writes(&run), "half a checkpoint is left");
    sandbox.run(&["finetune", "--resume", "--output", "full", "--no-retention", "--save-every", "1"]).code(0);
    same_files(&sandbox.path("whole"), &run);
    assert_eq!(steps(&sandbox.path("whole")), steps(&run));
}

#[test]
fn a_resumed_run_stays_what_it_was() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let ran = finetune(&sandbox, &["--epochs", "1", "--output", "run"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = sandbox.run(&["finetune", "--resume", "--output", "run", "--lr", "1"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("the run was begun with lr 0.001, not 1"), "{}", ran.stderr);
    let text = std::fs::read_to_string(sandbox.path("pairs.tsv")).unwrap();
    sandbox.write("pairs.tsv", text.replace("number 5", "number five"));
    let ran = sandbox.run(&["finetune", "--resume", "--output", "run"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.stderr.contains("the training data are not those that the run began with"), "{}", ran.stderr);
    let ran = finetune(&sandbox, &["--epochs", "1", "--output", "run"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("--resume goes on"), "{}", ran.stderr);
}

#[test]
fn a_run_goes_on_with_its_own_model_alone() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let copy = |from: &str, to: &str| {
        let _ = std::fs::remove_dir_all(sandbox.path(to));
        std::fs::create_dir_all(sandbox.path(to)).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), sandbox.path(to).join(entry.file_name())).unwrap();
        }
    };
    copy(&model("hf-clip-quickgelu"), "own");
    finetune(&sandbox, &["--model", "own", "--epochs", "1", "--output", "run"]).code(0);
    let resume = ["finetune", "--resume", "--output", "run", "--no-retention"];
    // Another model by name; another family's checkpoint, and one with the same shapes, in its place.
    let named = sandbox.run(&[&resume[..], &["--model", &model("hf-siglip")]].concat()).fails(2);
    assert!(named.contains("the run was begun with model \"own\""), "{named}");
    for other in ["hf-siglip", "open_clip-vit"] {
        copy(&model(other), "own");
        let said = sandbox.run(&resume).fails(3);
        assert!(said.contains("the model is not the one that the run began with"), "{said}");
    }
    copy(&model("hf-clip-quickgelu"), "own");
    sandbox.run(&resume).code(0);
    // A checkpoint of a run of another family.
    finetune(&sandbox, &["--model", &model("hf-siglip"), "--epochs", "1", "--output", "other"]).code(0);
    let state = std::fs::read_to_string(sandbox.path("run/state.json")).unwrap();
    sandbox.write("run/state.json", state.replace("\"done\": true", "\"done\": false"));
    let place = format!("checkpoints/step-{:08}/weights.safetensors", done(&sandbox.path("run")));
    std::fs::copy(sandbox.path("other").join(&place), sandbox.path("run").join(&place)).unwrap();
    let said = sandbox.run(&resume).fails(3);
    assert!(said.contains("the checkpoint has no `") && said.contains("is the run's model still the same?"), "{said}");
}
