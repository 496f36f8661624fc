package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
)

// column is one column of a listing: its heading, and the name of the field that
// --format knows it by.
type column struct {
	heading, field string
}

// row is one line of a listing: values by field name, columns shown or not. Its labels are there one by one as well, for
// templates that ask for one.
type row map[string]string

// labelPrefix begins the names of a row's single labels; no template can name such a field.
const labelPrefix = "label:"

// setLabels gives a row its labels.
func (r row) setLabels(labels map[string]string) {
	r["Labels"] = joinLabels(labels)
	for key, value := range labels {
		r[labelPrefix+key] = value
	}
}

// Label is the value of one label, or nothing.
func (r row) Label(key string) string { return r[labelPrefix+key] }

// MarshalJSON writes the fields.
func (r row) MarshalJSON() ([]byte, error) {
	fields := make(map[string]string, len(r))
	for name, value := range r {
		if !strings.HasPrefix(name, labelPrefix) {
			fields[name] = value
		}
	}
	return json.Marshal(fields)
}

// headings is the first line of a table that a template makes.
type headings map[string]string

// Label is the heading of a column with the values of one label: what follows the key's last dot.
func (headings) Label(key string) string {
	key = key[strings.LastIndex(key, ".")+1:]
	return strings.NewReplacer("-", " ", "_", " ").Replace(key)
}

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
// each row, or "table TEMPLATE". A template knows more columns than those that are shown without.
func writeFormat(w io.Writer, format string, columns []column, rows []row, more ...column) error {
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
	write := func(values any) error {
		var line strings.Builder
		if err := t.Execute(&line, values); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		_, err := fmt.Fprintln(out, line.String())
		return err
	}
	if isTable {
		table := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
		defer table.Flush()
		out = table
		top := headings{}
		for _, c := range slices.Concat(columns, more) {
			top[c.field] = c.heading
		}
		if err := write(top); err != nil {
			return err
		}
	}
	for _, r := range rows {
		if err := write(r); err != nil {
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
