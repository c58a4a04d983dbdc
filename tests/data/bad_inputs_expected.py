"""What is said of each file of bad_inputs.py: how many rows are sound, and either every bad row or why there is none.

EXPECTED["cut.jsonl"]       # (2, ["2: not_json: not valid JSON: ..."]): line, reason, message
"""

FORMS = (
    "(messages, conversations, instruction/output, question/answer, query/response, prompt/completion, text/label, "
    "...); name the columns: --columns instruction=...,output=... or text=...,label=..."
)
IN_A_PRESET = "(in a preset: columns)"
HEADER = "if the first line is a row and no header, write one above it"
NO_EXCEL = "not a sound Excel file"
READABLE = ".jsonl, .json, .csv, .tsv, .parquet, .xlsx, .txt, .conll"
NO_NAME = "not valid JSON: Expecting property name enclosed in double quotes at column"
CUT_ARRAY = "(cut off?); fix the file, an array cannot be read past this"

EXPECTED: dict[str, tuple[int, list[str]]] = {
    "cut.jsonl": (2, ["2: not_json: not valid JSON: Expecting ':' delimiter at column 43 (cut off?)"]),
    "cut_in_key.jsonl": (2, ["2: not_json: not valid JSON: Unterminated string starting at column 2 (cut off?)"]),
    "cut_in_escape.jsonl": (2, ["2: not_json: not valid JSON: Invalid \\uXXXX escape at column 19"]),
    "cut_at_the_end.jsonl": (1, ["2: not_json: not valid JSON: Unterminated string starting at column 35 (cut off?)"]),
    "two_objects.jsonl": (2, ["2: not_json: not valid JSON: another one after the object (column 49)"]),
    "single_quotes.jsonl": (
        2,
        [
            "2: not_json: not valid JSON: single quotes, as Python prints them: write the rows with json.dumps "
            "(column 2)"
        ],
    ),
    "bare_key.jsonl": (2, [f"2: not_json: {NO_NAME} 2"]),
    "trailing_comma.jsonl": (2, ["2: not_json: not valid JSON: a comma too many before it (column 21)"]),
    "comment.jsonl": (2, ["2: not_json: not valid JSON: a comment, which JSON does not have (column 1)"]),
    "invalid_utf8.jsonl": (2, ["2: invalid_utf8: byte 18 of the line is not UTF-8"]),
    "half_character.jsonl": (2, ["2: invalid_utf8: byte 18 of the line is not UTF-8"]),
    "overlong_utf8.jsonl": (2, ["2: invalid_utf8: byte 18 of the line is not UTF-8"]),
    "byte_order_mark.jsonl": (2, []),
    "carriage_returns.jsonl": (2, []),
    "duplicate_key.jsonl": (2, ["2: duplicate_key: key 'output' is given twice"]),
    "duplicate_key_within.jsonl": (2, ["2: duplicate_key: key 'role' is given twice"]),
    "nan.jsonl": (2, ["2: not_a_number: holds NaN, which JSON does not have; write null"]),
    "infinity.jsonl": (2, ["2: not_a_number: holds -Infinity, which JSON does not have; write null"]),
    "lone_surrogate.jsonl": (2, ["2: lone_surrogate: contains half a character (a lone surrogate such as \\ud83d)"]),
    "lone_surrogate_key.jsonl": (
        2,
        ["2: lone_surrogate: contains half a character (a lone surrogate such as \\ud83d)"],
    ),
    "raw_control.jsonl": (
        2,
        [
            "2: not_json: not valid JSON: a line break, tab or other control character in a text (column 19): write "
            "\\n, \\t"
        ],
    ),
    "nul_bytes.jsonl": (2, ["2: not_json: not valid JSON: zero bytes (a copy that failed, or a disk) (column 1)"]),
    "long_number.jsonl": (2, ["2: long_number: contains a number of thousands of digits; write it as text"]),
    "deep.jsonl": (2, ["2: too_deep: nested too deeply"]),
    "list_line.jsonl": (2, ["2: not_an_object: a list, expected an object"]),
    "number_line.jsonl": (2, ["2: not_an_object: a number, expected an object"]),
    "null_line.jsonl": (2, ["2: not_an_object: null, expected an object"]),
    "huge_and_cut.jsonl": (2, ["2: not_json: not valid JSON: Unterminated string starting at column 32 (cut off?)"]),
    "empty_answer.jsonl": (2, ["2: empty_answer: 'output' is empty"]),
    "blank_answer.jsonl": (2, ["2: empty_answer: 'output' is empty"]),
    "null_answer.jsonl": (2, ["2: empty_answer: no 'output'"]),
    "number_answer.jsonl": (2, ["2: wrong_type: 'output' is a number, expected text"]),
    "empty_question.jsonl": (2, ["2: empty_text: 'instruction' is empty"]),
    "missing_answer.jsonl": (
        2,
        [f"2: unknown_dialect: columns (instruction, reply) fit no known form {FORMS} {IN_A_PRESET}"],
    ),
    "no_columns.jsonl": (2, [f"2: unknown_dialect: columns (none) fit no known form {FORMS} {IN_A_PRESET}"]),
    "no_turns.jsonl": (2, ["2: empty_text: the conversation has no turns"]),
    "answer_first.jsonl": (2, ["2: wrong_roles: turn 1 is 'assistant', expected 'user'"]),
    "question_last.jsonl": (2, ["2: wrong_roles: last turn is 'user', expected 'assistant'"]),
    "unknown_speaker.jsonl": (
        2,
        [
            "2: wrong_roles: turn 1 is by 'narrator'; expected one of: system, user, human, assistant, gpt, tool, "
            "function_call, observation (other words: `tags` of a datasets.yaml)"
        ],
    ),
    "null_turn.jsonl": (2, ["2: wrong_type: turn 2: content is missing, expected text"]),
    "turns_as_text.jsonl": (2, ["2: wrong_type: 'messages' is text that is no JSON list"]),
    "unknown_label.jsonl": (
        2,
        [
            "2: unknown_label: label 7 is unknown to sentiment; expected one of: "
            "负面 (0, false, negative, neg, 负, 负向, 消极), 正面 (1, true, positive, pos, 正, 正向, 积极); "
            "--labels names others, --label_map says which is which (in a preset: labels, label_map)"
        ],
    ),
    "null_label.jsonl": (2, ["2: empty_answer: label is missing"]),
    "wrong_span.jsonl": (2, ["2: wrong_span: entities[0]: text[1:2] is '京', entity_text says '北京'"]),
    "span_outside.jsonl": (2, ["2: wrong_span: entities[0]: start_idx 0, end_idx 9 lie outside the 2 characters"]),
    "unknown_option.jsonl": (2, ["2: unknown_label: 'output' 'Sports' is none of the row's own options: Art"]),
    "unknown_task.jsonl": (
        2,
        [
            (
                "2: unknown_task: task 'nerr' is unknown; did you mean 'ner'?; expected one of: chat, instruct, "
                "moderation, ner, news, sentiment, sentiment_json, text"
            )
        ],
    ),
    "empty.jsonl": (0, ["empty.jsonl: the file is empty"]),
    "blank.jsonl": (0, ["blank.jsonl: the file has no rows, only blank lines"]),
    "utf16.jsonl": (2, []),
    "utf16_unmarked.jsonl": (
        0,
        ["utf16_unmarked.jsonl: not UTF-8; it looks like UTF-16LE without a byte-order mark: pass --encoding UTF-16LE"],
    ),
    "utf32.json": (0, []),
    "gb18030.jsonl": (1, []),
    "object.json": (
        1,
        ["object.json:4: not valid JSON: Expecting value at column 1; fix the file, it cannot be read past this"],
    ),
    "cut.json": (1, [f"cut.json:2: not valid JSON: Unterminated string starting at column 35 {CUT_ARRAY}"]),
    "open.json": (1, [f"open.json:2: not valid JSON: Expecting value at column 1 {CUT_ARRAY}"]),
    "two_arrays.json": (1, ["two_arrays.json:2: more text after the array; keep one array in a file"]),
    "bad_rows.json": (
        0,
        [
            "1: not_an_object: a number, expected an object",
            "2: invalid_utf8: contains bytes that are not UTF-8",
            "3: not_a_number: holds NaN, which JSON does not have; write null",
        ],
    ),
    "open_quote.csv": (1, ["open_quote.csv:3: a quote opened here is never closed; fix the file"]),
    "text_behind_quote.csv": (
        1,
        ["2: wrong_quotes: quotes are wrong (',' expected after '\"'); double those inside a cell"],
    ),
    "few_cells.csv": (1, ["2: wrong_columns: 1 cells under a header of 2; write the missing ones, be they empty"]),
    "many_cells.csv": (1, ["2: wrong_columns: 3 cells under a header of 2; quote the commas of a text"]),
    "column_twice.csv": (0, ["column_twice.csv:1: column 'text' is there twice; rename one"]),
    "invalid_utf8.csv": (1, ["2: invalid_utf8: contains bytes that are not UTF-8 (--encoding names another)"]),
    "gb18030.csv": (1, []),
    "cp1252.csv": (
        0,
        [
            'cp1252.csv: not UTF-8; it may be cp1252 (Western European: "Schöne Zimmer fü") or cp1250 (Central '
            'European: "Schöne Zimmer fü") or cp1254 (Turkish: "Schöne Zimmer fü"): pass --encoding cp1252 (or '
            "another), or save it as UTF-8 (Excel: CSV UTF-8)"
        ],
    ),
    "utf16.csv": (1, []),
    "empty_label.csv": (1, ["2: empty_answer: label is empty"]),
    "semicolons.csv": (1, []),
    "wrong_columns.csv": (
        0,
        [f"2: unknown_dialect: columns (question, reply) fit no known form {FORMS}; {HEADER} {IN_A_PRESET}"],
    ),
    "look_like_others.csv": (3, []),
    "blank.csv": (0, ["blank.csv: the file has no rows, only blank lines"]),
    "no_parquet.parquet": (
        0,
        [
            (
                "no_parquet.parquet: not a sound Parquet file (Parquet file size is 23 bytes, "
                "smaller than the size reported by footer's (543713141bytes)); copy or write it again"
            )
        ],
    ),
    "cut.parquet": (
        0,
        [
            (
                "cut.parquet: not a sound Parquet file (Parquet magic bytes not found in footer. "
                "Either the file is corrupted or this is not a parquet file.); copy or write it again"
            )
        ],
    ),
    "nulls.parquet": (1, ["2: empty_text: no 'text'"]),
    "dates.parquet": (0, ["1: wrong_type: 'text' is a date, expected text"]),
    "formulas.xlsx": (
        1,
        [
            "2: wrong_type: 'text' is a formula (paste it as a value), expected text",
            "3: unknown_label: label is a formula (paste it as a value)",
        ],
    ),
    "dates.xlsx": (1, ["2: wrong_type: 'text' is a date (format the column as text), expected text"]),
    "errors.xlsx": (1, ["2: wrong_type: 'text' is an error (#N/A), expected text"]),
    "long_ids.xlsx": (
        1,
        [
            (
                "2: wrong_type: 'text' is a number of more than 15 digits, which Excel has "
                "rounded (format the column as text), expected text"
            ),
            (
                "3: unknown_label: label is a number of more than 15 digits, which Excel has "
                "rounded (format the column as text)"
            ),
        ],
    ),
    "numbered_columns.xlsx": (0, ["numbered_columns.xlsx:1: the first row must name the columns; B is a number"]),
    "column_twice.xlsx": (0, ["column_twice.xlsx:1: column 'text' is there twice; rename one"]),
    "nameless_column.xlsx": (
        1,
        ["2: wrong_columns: cell C2 is under no column name; name the column or empty the cell"],
    ),
    "empty_cells.xlsx": (1, ["2: empty_answer: label is empty", "3: empty_text: 'text' is empty"]),
    "no_rows.xlsx": (0, ["no_rows.xlsx: the file has no rows, only empty cells"]),
    "cut.xlsx": (0, [f"cut.xlsx: {NO_EXCEL} (no zip archive, or cut off); save it again as .xlsx"]),
    "no_archive.xlsx": (0, [f"no_archive.xlsx: {NO_EXCEL} (no zip archive, or cut off); save it again as .xlsx"]),
    "protected.xlsx": (0, ["protected.xlsx: an old .xls, or protected by a password; save it as .xlsx without one"]),
    "a_document.xlsx": (
        0,
        [
            (
                f"a_document.xlsx: {NO_EXCEL} (There is no item named '[Content_Types].xml' in "
                "the archive); save it again as .xlsx"
            )
        ],
    ),
    "broken_xml.xlsx": (
        0,
        [f"broken_xml.xlsx: {NO_EXCEL} (unclosed token: line 1, column 99); save it again as .xlsx"],
    ),
    "missing_text.xlsx": (0, [f"missing_text.xlsx: {NO_EXCEL} (a cell names text 99 of 0); save it again as .xlsx"]),
    "old.xls": (0, ["old.xls: of the spreadsheets only .xlsx is read; save it as that, or as CSV (UTF-8)"]),
    "notes.rtf": (0, [f"notes.rtf: unknown kind of file '.rtf'; give one of: {READABLE}"]),
    "no_suffix": (0, [f"no_suffix: its name does not end in what it holds; give one of: {READABLE}"]),
    "rows.jsonl.gz": (
        0,
        [
            "rows.jsonl.gz: the packed file is cut off or damaged (Compressed file ended before the "
            "end-of-stream marker was reached); copy it again"
        ],
    ),
    "a_folder.jsonl": (
        0,
        [f"a_folder.jsonl: the folder has no manifest.json (a built dataset) and no file of rows ({READABLE})"],
    ),
    "missing.jsonl": (0, ["missing.jsonl: no such file; give a path from here (HERE) or from the project's root"]),
}
