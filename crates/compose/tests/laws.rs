//! Laws of variables, words and files over one another, for whatever is written.

mod support;

use proptest::prelude::*;
use skerry_compose::interpolate::interpolate;
use skerry_compose::words::split;
use support::World;

fn nothing(_: &str) -> Option<String> {
    None
}

proptest! {
    #[test]
    fn text_without_a_dollar_stays(text in "[^$]{0,40}") {
        prop_assert_eq!(interpolate(&text, &nothing).map(|done| done.text), Ok(text));
    }

    #[test]
    fn doubled_dollars_are_the_text_itself(text in "[ -~]{0,40}") {
        let written = text.replace('$', "$$");
        let lookup = |_: &str| Some("x".to_owned());
        prop_assert_eq!(interpolate(&written, &lookup).map(|done| done.text), Ok(text));
    }

    #[test]
    fn a_value_is_taken_as_it_is_and_not_read_again(value in "[ -~]{0,20}", before in "[a-z ]{0,5}") {
        let lookup = |name: &str| (name == "A").then(|| value.clone());
        let written = format!("{before}${{A}}.");
        let expected = format!("{before}{value}.");
        prop_assert_eq!(interpolate(&written, &lookup).map(|done| done.text), Ok(expected));
    }

    #[test]
    fn a_default_stands_in_for_what_is_not_set_and_for_nothing_else(value in proptest::option::of("[a-z]{0,4}"), default in "[a-z]{0,4}") {
        let lookup = |_: &str| value.clone();
        let read = |text: String| interpolate(&text, &lookup).map(|done| done.text);
        prop_assert_eq!(read(format!("${{A-{default}}}")), Ok(value.clone().unwrap_or(default.clone())));
        let not_empty = value.clone().filter(|value| !value.is_empty());
        prop_assert_eq!(read(format!("${{A:-{default}}}")), Ok(not_empty.clone().unwrap_or(default.clone())));
        let instead = |there: bool| if there { default.clone() } else { String::new() };
        prop_assert_eq!(read(format!("${{A+{default}}}")), Ok(instead(value.is_some())));
        prop_assert_eq!(read(format!("${{A:+{default}}}")), Ok(instead(not_empty.is_some())));
        prop_assert_eq!(read(format!("${{A?{default}}}")).is_ok(), value.is_some());
        prop_assert_eq!(read(format!("${{A:?{default}}}")).is_ok(), not_empty.is_some());
    }

    #[test]
    fn whatever_is_written_ends(text in "[${}:?+A-]{0,40}") {
        let _ = interpolate(&text, &nothing);
    }

    #[test]
    fn quoted_words_come_back(words in proptest::collection::vec("[ -~]{0,8}", 0..6)) {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
        prop_assert_eq!(split(&quoted.join(" ")), Ok(words));
    }

    #[test]
    fn a_file_over_itself_is_itself(
        env in proptest::collection::btree_map("[A-Z]{1,3}", "[a-z]{0,3}", 0..4),
        ports in proptest::collection::btree_set(1_u16..9000, 0..4),
        caps in proptest::sample::subsequence(vec!["NET_ADMIN", "SYS_TIME", "CHOWN"], 0..3),
    ) {
        let env: Vec<String> = env.iter().map(|(key, value)| format!("{key}: '{value}'")).collect();
        let ports: Vec<String> = ports.iter().map(|port| format!("'{port}:{port}'")).collect();
        let text = format!(
            "services:\n  a:\n    image: x:1\n    environment: {{{}}}\n    ports: [{}]\n    cap_add: [{}]\n",
            env.join(", "), ports.join(", "), caps.join(", "),
        );
        prop_assert_eq!(World::default().read(&[&text, &text]).app, World::default().read(&[&text]).app);
    }

    #[test]
    fn files_over_one_another_are_as_one_after_the_other(
        values in proptest::collection::vec(proptest::collection::btree_map("[A-D]", "[a-z]{0,3}", 0..4), 3),
    ) {
        let file = |map: &std::collections::BTreeMap<String, String>| {
            let env: Vec<String> = map.iter().map(|(key, value)| format!("{key}: '{value}'")).collect();
            format!("services:\n  a:\n    image: x:1\n    environment: {{{}}}\n", env.join(", "))
        };
        let mut all = values[0].clone();
        all.extend(values[1].clone());
        all.extend(values[2].clone());
        let texts: Vec<String> = values.iter().map(file).collect();
        let read = World::default().read(&[&texts[0], &texts[1], &texts[2]]);
        prop_assert_eq!(&read.service("a").env, &all);
    }
}
