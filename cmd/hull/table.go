package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"text/template"
)

// column is one column of a listing: its heading, and the name of the field that
// --format knows it by.
type column struct {
	heading, field string
}

// row is one line of a listing: values by field name, columns shown or not.
type row map[string]string

// writeTable writes rows as docker does: headings, columns three spaces apart.
func writeTable(w io.Writer, columns []column, rows []row) error {
	t := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	line := func(cell func(column) string) {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = clean(cell(c))
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	line(func(c column) string { return c.heading })
	for _, r := range rows {
		line(func(c column) string { return r[c.field] })
	}
	return t.Flush()
}

// clean keeps a cell on its line: names may come from a hostile image.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// writeFormat writes rows as --format says: "table", "json", a Go template for
// each row, or "table TEMPLATE".
func writeFormat(w io.Writer, format string, columns []column, rows []row) error {
	switch {
	case format == "" || format == "table":
		return writeTable(w, columns, rows)
	case format == "json":
		for _, r := range rows {
			line, err := json.Marshal(r)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
				return err
			}
		}
		return nil
	}
	text, isTable := strings.CutPrefix(format, "table ")
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	out := w
	if isTable {
		table := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
		defer table.Flush()
		out = table
		headings := row{}
		for _, c := range columns {
			headings[c.field] = c.heading
		}
		rows = append([]row{headings}, rows...)
	}
	for _, r := range rows {
		var line strings.Builder
		if err := t.Execute(&line, r); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		if _, err := fmt.Fprintln(out, line.String()); err != nil {
			return err
		}
	}
	return nil
}

// parseTemplate reads a template of --format.
func parseTemplate(text string) (*template.Template, error) {
	// docker's users write \t and \n in single quotes.
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("--format").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"lower": strings.ToLower, "upper": strings.ToUpper, "title": title,
		"join": joinAny, "split": strings.Split, "println": fmt.Sprintln,
	}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--format: %w", err)
	}
	return t, nil
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// joinAny joins the elements of any list.
func joinAny(list any, separator string) (string, error) {
	v := reflect.ValueOf(list)
	if v.Kind() != reflect.Slice {
		return "", fmt.Errorf("join: %T is not a list", list)
	}
	parts := make([]string, v.Len())
	for i := range parts {
		parts[i] = fmt.Sprint(v.Index(i))
	}
	return strings.Join(parts, separator), nil
}
